"""What can be served, and how a TARGET is found: the port and one module per kind of target."""
