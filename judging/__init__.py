"""The rules that hold for every run, wherever it ran: one judge for the simulation and for the soak.

`judge.py` applies the rules to `evidence.py`, a record of what was seen from outside. `simulation/adapter.py` and
`soak/adapter.py` make that record; neither a server nor an engine is known here.
"""
