"""The journal in PostgreSQL: a store for the session table, and who owns it."""
