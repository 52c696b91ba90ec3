"""The text in a stream whose run waits for a person's answer, for protocols that have only text.

Without it the client would see nothing until then.
"""

from typing import Final

from starlette.types import Scope

from strandline._encoding import encode
from strandline._engine.events import Event
from strandline._http.dialects.sent_text import BREAK
from strandline._http.exchange.input_requests import how_to_answer, open_requests
from strandline._model import InputRequest, SessionId

_SAYS: Final = (
    "(The session waits for a person's answer, and so does this message. {questions} - to answer it, {method} {path}"
    " with {body}, its null filled in.)"
)


class Waiting:
    """Returns the text once for each question. `scope` is that of the client's request."""

    def __init__(self, scope: Scope, session_id: SessionId) -> None:
        self._scope = scope
        self._session_id = session_id
        self._shown: list[str] = []

    def heard(self, event: Event) -> str:
        """Take any event and return the text for it, ending with a blank line. Most have none."""
        requests = open_requests(event)
        ids = [each.id for each in requests]
        if not requests or ids == self._shown:
            return ""
        self._shown = ids
        how = how_to_answer(self._scope, self._session_id, requests)
        said = _SAYS.format(
            questions=questions(requests), method=how.method, path=how.path, body=encode(how.body).decode()
        )
        return said + BREAK


def questions(requests: list[InputRequest]) -> str:
    """Return the questions for people to read."""
    return "; ".join(f"{each.name}: {_reason(each)}" if each.reason is not None else each.name for each in requests)


def _reason(request: InputRequest) -> str:
    return request.reason if isinstance(request.reason, str) else encode(request.reason).decode()
