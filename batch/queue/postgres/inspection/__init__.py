"""What a person wants to know of a PostgreSQL database and of those who work on it."""
