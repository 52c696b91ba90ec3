"""The errors of a client, in families by what to do about them.

* `NoServer`: no server was reached, or none came back in time. The request may have arrived.
* `NotNow`: refused for now, for longer than the client was to retry. Nothing was accepted.
* `Refused` with `Unauthorized`, `NotFound` and `Conflict`: refused for good; `code` says why.
* `NotStrandline`: the answer is not one of a Strandline server, or of another version.
"""


class ClientError(Exception):
    """Base of all errors of a client. `code` is stable, `detail` is for people.

    `status` is that of the HTTP answer, None without one; `retry_after_s` is when to retry, if the server said so.
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
    """There is no answer. `reached`: the request was sent, so it may have been accepted."""

    def __init__(self, detail: str, *, code: str = "no_server", reached: bool = False) -> None:
        super().__init__(detail, code=code)
        self.reached = reached


class StreamEnded(NoServer):
    """The server ended a stream before the run ended: it is stopping, and has stored the run."""

    def __init__(self) -> None:
        super().__init__("the server has ended the stream before the run has ended", code="stream_ended", reached=True)


class NotStrandline(ClientError):
    """The answer is not one of a Strandline server of this version."""

    def __init__(self, detail: str, *, status: int | None = None) -> None:
        super().__init__(detail, code="not_strandline", status=status)


class Refused(ClientError):
    """The server refuses, and would refuse again. `code` is the server's, `""` if it sent none."""


class Unauthorized(Refused):
    """The server needs an API key, or does not know this one (any more)."""


class NotFound(Refused):
    """There is no such run, session or page."""


class Conflict(Refused):
    """The request does not fit the present state: the session is busy, the run has ended, the question was answered."""


class NotNow(Refused):
    """A queue or the disk is full, or the server is starting or stopping: nothing was accepted."""
