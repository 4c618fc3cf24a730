"""The rules of conversations, as pure functions: no await, no clock, no chance."""
