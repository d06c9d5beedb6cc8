"""Stored responses, conversations and chat completions: what a client can fetch, continue and refer to later."""
