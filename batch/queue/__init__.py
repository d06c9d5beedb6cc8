"""The queue room: durable jobs in SQLite, huey messages that carry ids, claims, wake-ups and events."""
