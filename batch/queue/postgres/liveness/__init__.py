"""Whether a database that is reached still answers."""
