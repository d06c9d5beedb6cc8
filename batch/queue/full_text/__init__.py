"""The search index's tables as each database has them."""
