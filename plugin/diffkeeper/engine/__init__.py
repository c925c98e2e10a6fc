"""Snapshotter, replay and verification: the only place where capture meets the store."""
