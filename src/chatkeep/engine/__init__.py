"""The only part that waits: for people, for handlers, for platforms and for time."""
