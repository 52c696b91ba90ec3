"""What a session waits to be answered, for clients whose runs wait for that: read from the journal when it is wanted.

It decides nothing: the journal does, and by the time that a client has read this it may be answered.
"""

import logging

from msgspec.structs import replace

from strandline.engine.events import Reason, Why
from strandline.engine.streams import truncate_arguments
from strandline.errors import StrandlineError
from strandline.journal.port import Journal, SessionQuery
from strandline.model import InputRequest, SessionKey

_log = logging.getLogger("strandline.open_requests")


class OpenRequests:
    """Belongs to the serving loop. A reason of more than `cut` bytes of JSON becomes null: the session has it."""

    def __init__(self, journal: Journal, *, cut: int) -> None:
        self._journal = journal
        self._cut = cut

    async def of(self, key: SessionKey, why: Why | None) -> list[InputRequest]:
        """Return the input requests that are open in a session, if `why` a run of it waits is that they are.

        None of them if they cannot be read at this moment.
        """
        if why is None or why.code is not Reason.WAITS_FOR_INPUT:
            return []
        try:
            session = await self._journal.read(SessionQuery(key))
        except StrandlineError as error:
            _log.warning("it cannot be told what session %s waits to be answered: %s", key.session_id, error)
            return []
        requests = [] if session is None else session.input_requests
        return [replace(each, reason=truncate_arguments(each.reason, self._cut)[0]) for each in requests]
