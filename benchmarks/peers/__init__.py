"""What others offer for the same work, each driven as its documentation says, in its cheapest durable way.

One file each, with the interface of the floors: `open(url)`, `fill(conversation, messages)`, `turn(conversation, step)`, which
answers the number of the turn whose state it found, and `close`. They run in an environment of their own (`make bench-peers`).
"""
