"""The engine and its journals in any interleaving: seeded, on virtual time, judged by what was seen from outside.

A *world* (`world.py`) is one life of a server: clients that come, leave and come back, agents that work, fail and hang,
a journal that is slow or full, an operator who crashes and drains it. All that is random comes from one seed, so a
seed is a test case: `make simulate SEED=7` shows it again, step by step. The rules of `judging`
and those of `judge.py` compare what clients received, what tools did and what is stored with what Strandline promises.
"""
