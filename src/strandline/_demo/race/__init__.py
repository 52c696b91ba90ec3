"""The race: five requests to one session at once, against three real servers; what became of them, drawn and judged.

`agent` is what all three serve, `plain` the two servers without Strandline, `processes` starts and ends all of them,
`tether` ends those whose command is gone, `acts` plays, `ledger` and `record` keep what was seen, `judge` says what is
wrong about it, `terminal` and `picture` draw it. Nothing is staged: whatever is drawn or said is computed
from a record of one run.
"""
