"""The agent that `make run` serves."""
