"""Which jobs a person means."""
