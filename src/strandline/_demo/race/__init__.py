"""The race: five requests to one session at once, against four real servers, with a judgement and a drawing.

`agent` is the agent of all servers, `plain` the servers without Strandline. `processes` starts and ends all of them,
`parent_watch` ends those whose command is gone, `play` runs a scenario, `ledger` and `record` store what was observed,
`judge` finds faults, `terminal` and `picture` draw. Nothing is faked: everything shown is computed from the record of
one race.
"""
