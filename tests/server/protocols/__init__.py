"""The protocols of other people's clients."""
