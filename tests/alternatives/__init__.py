"""What people do today about two requests to one session, as small as each can honestly be.

The race test and the benchmarks run against these too: a test that none of them fails proves nothing.
"""
