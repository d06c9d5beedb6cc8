"""Payloads of homes that share a database and nothing else."""
