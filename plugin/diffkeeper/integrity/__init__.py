"""Checks and repairs of what is stored and of live directories."""
