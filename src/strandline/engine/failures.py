"""What user code has raised, in words: without the wrappers of the framework and of ours."""

import traceback

from strandline.errors import AgentFailed


class FailedThere(AgentFailed):
    """What user code has raised in another process; `kind` is the name of its class there."""

    def __init__(self, detail: str, kind: str) -> None:
        super().__init__(detail)
        self.kind = kind


def kind_of(error: BaseException) -> str:
    """Return the name of the class of what the user's code raised."""
    error = _cause(error)
    return error.kind if isinstance(error, FailedThere) else type(error).__name__


def detail_of(error: BaseException) -> str:
    """Return what the user's code raised, in one line."""
    error = _cause(error)
    if isinstance(error, AgentFailed):
        return str(error)
    return "".join(traceback.format_exception_only(error)).strip()


def _cause(error: BaseException) -> BaseException:
    """Return what the user's code raised, or the wrapper, if it wraps nothing."""
    while isinstance(error, AgentFailed) and error.__cause__ is not None:
        error = error.__cause__
    return error
