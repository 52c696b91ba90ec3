"""`strandline chat`: a conversation with a server, in a terminal or a pipe. A client like any other: only HTTP."""
