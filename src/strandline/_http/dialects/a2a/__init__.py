"""A2A, the protocol by which agents call agents."""
