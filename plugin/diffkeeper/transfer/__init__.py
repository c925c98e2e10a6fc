"""Histories as archives, from host to host."""
