"""Why an event could not be sent."""


class NotSent(Exception):
    """An event could not be sent; the text says why, for people, and has nothing of the URL."""
