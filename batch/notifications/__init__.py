"""Telling others what has ended: signed webhooks, and a command of the home's owner."""
