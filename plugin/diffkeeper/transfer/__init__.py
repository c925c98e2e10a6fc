"""Histories as archives, for moving volumes between hosts."""
