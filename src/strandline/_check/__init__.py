"""`strandline check`: how any server of a stateful agent handles requests that meet, seen from outside.

It knows nothing of Strandline's inside. It calls a server through an adapter, an async function, and judges it by the
answers of the probe (`strandline.testing.probe`), an agent that reports when it worked and what it saw.
"""
