"""The store in one SQLite file (WAL), with nothing to install or run beside it."""
