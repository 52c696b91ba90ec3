"""`strandline serve --reload`: a parent that holds the socket, and one server after the other as its child."""
