"""The demo: PostgreSQL on a DiffKeeper volume, killed at random, with a ledger kept outside."""
