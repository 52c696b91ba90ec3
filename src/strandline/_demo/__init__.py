"""The agent that `make run` and the container's demo serve: small and real, without key or network.

`agent` makes it, `local_model` finds and starts the small language model behind it, `__main__` puts both behind
a server. Nothing else in Strandline imports this package.
"""
