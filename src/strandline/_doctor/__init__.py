"""Checks before a server starts: findings about this machine, the settings, the journal and the agent.

Nothing here changes anything. `finding` is the record; `machine`, `network`, `keys`, `storage` and `agent` produce it;
`trial` is the process that tries the user's code.
"""
