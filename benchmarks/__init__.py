"""How fast a turn is, beside the plain driver, in one interleaved run. `make bench` runs all and writes RESULTS.md."""
