"""What only one of several services on a database does: who does it, and the work itself."""
