"""Configuration, logging and wiring of the long-running process."""
