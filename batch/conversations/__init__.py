"""Stored responses and conversations: what a client can fetch, continue and refer to later."""
