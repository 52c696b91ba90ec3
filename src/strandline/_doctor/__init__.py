"""What may be wrong before a server starts: findings about this machine, the settings, the journal and the agent.

Everything here looks and changes nothing. `finding` is what is found, `machine`, `place`, `kept` and `agent` find it;
`trial` is the process in which the user's code is tried.
"""
