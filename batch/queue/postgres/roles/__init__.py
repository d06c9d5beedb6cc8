"""Least rights: what the roles of fronts and of workers may do in the database."""
