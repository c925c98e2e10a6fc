"""Keeping the store small, and telling who takes what of it."""
