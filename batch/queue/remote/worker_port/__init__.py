"""TLS streams from workers to the fronts that open a port for them: words, ends and questions, past the database."""
