"""What can be served, and how a TARGET is found: the port and one room per kind of target."""
