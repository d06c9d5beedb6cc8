"""What only one of several services on a database does at a time."""
