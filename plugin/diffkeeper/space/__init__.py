"""Keeps the store small, and counts who takes what of it."""
