"""Every table of both databases, and what becomes of it when a home moves from one to the other.

A table or column that a migration adds has to be named here, unless both databases have it under one name: a test compares.
"""

from __future__ import annotations

MOVED_TABLES = (
    *("job", "task", "checkpoint", "blob", "orphan", "pause", "idempotency"),
    *("tally", "daily", "model_tally", "model_daily"),
    *("stored_file", "upload", "upload_part", "batch", "batch_line", "batch_file", "file_bytes"),
    *("content", "file", "file_tally"),
    *("item", "response", "response_item", "response_event", "conversation", "conversation_item", "chat_completion"),
    "stored_bytes",
    *("notification_target", "notification_event", "notification_delivery"),
    *("entry", "entry_source", "passage", "passage_fts", "vector", "passage_removed", "search_meta"),
)
"""Whose rows are copied, each with the columns that both databases have."""
LEFT_TABLES = {
    "claim": "running jobs are put back into the line before anything is copied",
    "node": "workers write their rows anew when they start",
    "service": "what a running service says of itself; the next one writes it anew",
}
"""Of both databases: whose rows are not copied, and why."""
POSTGRES_TABLES = {
    "tally_folded": "what `tally` adds up",
    "daily_folded": "what `daily` adds up",
    "model_tally_folded": "what `model_tally` adds up",
    "model_daily_folded": "what `model_daily` adds up",
    "state_change": "what all four add up",
    "stored_content": "computed from files and parts",
    "payload": "bytes, which the spool holds in the other database",
    "payload_object": "where bytes lie in a bucket; they are in the spool in the other database",
    "payload_garbage": "what is to be deleted from a bucket",
    "notification_secret": "kept in the home's files in the other database, and taken from there",
    "frame": "packets on their way, a few minutes old at most",
    "worker_port": "where fronts can be dialled; each writes its own anew",
    "batch_schema": "the schema's version",
    "granted_role": "roles of that database",
    "lease_root": "keys of that database",
}
"""Of PostgreSQL alone, with where their rows come from."""
SQLITE_TABLES = {
    "sqlite_sequence": "the highest id of each table, which sequences hold in the other database",
    "_sqlite_migrations": "the schema's version",
}
"""Of SQLite alone; besides those that FTS5 keeps for itself."""
COUNTER_TABLES = {name: f"{name}_folded" for name in ("tally", "daily", "model_tally", "model_daily")}
"""Views in PostgreSQL, with the tables that hold what is written."""
ONE_ROW_TABLES = ("file_bytes", "stored_bytes", "search_meta")
"""Which an empty database has a row of, too."""

SQLITE_COLUMNS = {"task.data": "a message; in the other database the job that it names"}
POSTGRES_COLUMNS = {
    "task.job": "the job that a message names",
    "task.holder": "for whom a message is kept, for half a second at most",
    "task.held_until": "until when it is kept",
    "job.worker": "which of many workers ended a job",
    "task.build": "for which workers it is kept, as long",
}
"""Of moved tables: columns that one database has alone. `front` is the home's or its inbox's id in PostgreSQL, and
empty in SQLite."""
FRONT = "front"
ID_COLUMNS = {
    "task": "id",
    "stored_file": "sequence",
    "batch": "sequence",
    "content": "id",
    "file": "id",
    "response": "sequence",
    "conversation_item": "place",
    "chat_completion": "sequence",
    "notification_delivery": "sequence",
    "entry": "id",
    "passage": "id",
    "passage_removed": "id",
}
"""Columns whose values the database hands out, none of them twice."""
NOT_COMPARED = {("passage_fts", "t")}
"""Columns that each database keeps in a form of its own."""
MARK = "moved"
"""Name of the note that says of a copy whose it is, until the home has been switched to it."""
