"""Whether chatkeep can be installed and does then what it says: `python -m tests.packaging`. Not part of pytest, for it wants an index."""
