"""Strandline beside its peers: real servers, one agent, its costs and what becomes of sessions (`make bench-peers`)."""
