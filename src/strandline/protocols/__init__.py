"""Protocols of others, at the same line: each translates, calls the service, and translates what comes of it."""
