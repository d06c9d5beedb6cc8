"""Between machines that share one database: what their workers report, what services ask them, and wake-ups."""
