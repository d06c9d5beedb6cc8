"""`batch database`: the schema and the rights in a PostgreSQL database, which are its owner's matter."""
