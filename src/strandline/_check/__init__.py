"""`strandline check`: what any server of a stateful agent does about requests that meet, seen from outside.

It knows nothing of Strandline's inside: a server is asked through an adapter, an async function, and what it does is
judged by the answers of a probe (`probe.py`), an agent that tells when it worked and what it saw.
"""
