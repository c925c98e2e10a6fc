"""Volumes: options, registry, mount counts and the lifecycle state machine."""
