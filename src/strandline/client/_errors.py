"""Every way in which a client gets no answer, in families by what to do about it.

* `NoServer`: nobody was reached, or came back in time. What was sent may have arrived.
* `NotNow`: refused for the moment, and for longer than the client was to try. Nothing was accepted.
* `Refused`, and of these `Unauthorized`, `NotFound` and `Conflict`: refused for good; `code` says why.
* `NotStrandline`: what answers is no server of Strandline, or one of another version.
"""


class ClientError(Exception):
    """Base of all errors of a client. `code` is stable, `detail` is for people.

    `status` is that of the HTTP answer, None if there was none; `retry_after_s` says when to come back, if the server
    did.
    """

    def __init__(
        self, detail: str, *, code: str, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code
        self.status = status
        self.retry_after_s = retry_after_s


class NoServer(ClientError):
    """There is no answer. `reached`: somebody took the request, so that it may have been accepted."""

    def __init__(self, detail: str, *, code: str = "no_server", reached: bool = False) -> None:
        super().__init__(detail, code=code)
        self.reached = reached


class StreamEnded(NoServer):
    """The server ended a stream before its run had ended: it stops, and keeps the run."""

    def __init__(self) -> None:
        super().__init__("the server has ended the stream before the run has ended", code="stream_ended", reached=True)


class NotStrandline(ClientError):
    """The answer is none that a Strandline server of this version gives."""

    def __init__(self, detail: str, *, status: int | None = None) -> None:
        super().__init__(detail, code="not_strandline", status=status)


class Refused(ClientError):
    """The server does not do it, and will not do it the next time. `code` is the server's, `""` if it gave none."""


class Unauthorized(Refused):
    """The server wants an API key, or does not know the one that it was shown (any more)."""


class NotFound(Refused):
    """There is no such run, session or page."""


class Conflict(Refused):
    """It does not fit to how things are: the session is busy, the run has ended, the question was answered."""


class NotNow(Refused):
    """A queue is full, the server is stopping, starting, or out of room: nothing was accepted."""
