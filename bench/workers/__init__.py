"""A prototype: the agents of sessions in worker processes, the rest of the server in one (ADR 36). Not the product."""
