"""The one way to a driver: the store, its caches, the circuit breaker, the spool and small records."""
