"""What chatkeep is measured against on each engine, with the same durability and the same work.

(a) is what a careful person writes by hand: the plain driver, load the state and the last 20 messages, decode them, run the
    bot, write. Nothing cached or combined. No dedupe, no order between processes, no retries, no expiry.
(b) is what write combining can give at most: state and history cached, one conditional write a turn, and everything that
    waits written together. No ids, no dedupe, no index but the ones it needs.
"""
