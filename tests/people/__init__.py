"""Users, claims, lists, saves and merges."""
