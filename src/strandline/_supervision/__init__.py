"""Servers as child processes of a parent that holds their listening socket: for `--reload`, and for `--servers`."""
