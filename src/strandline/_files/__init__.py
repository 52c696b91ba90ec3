"""Files that callers upload into their sessions: their types, names, place on a disk, and how models see them.

Knows no HTTP, no journal and no agent framework. Everything here that reads or writes a disk blocks: call it in a
thread.
"""
