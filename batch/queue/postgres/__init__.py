"""The store in a PostgreSQL database, which several machines share; psycopg is the extra `batch-engine[postgres]`."""
