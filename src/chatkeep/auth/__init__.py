"""Credentials: who may do what."""
