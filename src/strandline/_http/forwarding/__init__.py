"""Requests that another server of the cluster has to answer: sent there, signed, and answered from there.

`forwarder` is the middleware of a server's own clients, `inner` the application for those of other servers. Neither
knows routes or dialects: the application decides whether a request is another server's (`forwardable`).
"""
