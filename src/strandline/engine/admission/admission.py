"""Who is let in: a request is accepted as a run, attached to the one that its key stands for, or refused.

What is refused leaves nothing behind. What is accepted is durable, and whoever waits for it gets its stream.
"""

from msgspec.structs import replace

from strandline.engine.admission.acceptance import Acceptance, Answer
from strandline.engine.admission.attachments import Attachments
from strandline.engine.admission.refusals import Refusals
from strandline.engine.admission.ticket import Ticket
from strandline.engine.maintenance import Readiness
from strandline.engine.observers import Observer, Tracing
from strandline.engine.requests import Drafts, Request, reused, unanswerable
from strandline.errors import Draining, HoldsFull, NoWorker, Unavailable
from strandline.journal.port import AcceptAnswer, Attached, Bounds, Journal, Refused, Reused, Unanswerable
from strandline.model import Carrier, Lane, NewRun, OnQuestion

NO_ROOM = Bounds(0, 0)
"""Lets no new run in, but tells which run a key stands for."""


class Admission:
    """Belongs to the serving loop."""

    def __init__(
        self,
        *,
        journal: Journal,
        drafts: Drafts,
        readiness: Readiness,
        refusals: Refusals,
        acceptance: Acceptance,
        attachments: Attachments,
        observer: Observer,
        tracing: Tracing,
    ) -> None:
        self._journal = journal
        self._drafts = drafts
        self._readiness = readiness
        self._refusals = refusals
        self._acceptance = acceptance
        self._attachments = attachments
        self._observer = observer
        self._tracing = tracing
        self.refused = 0
        """How many requests were refused for now: a queue or the server was full, it was stopping, or had no worker."""

    async def submit(self, request: Request) -> Ticket:
        """Accept a run, as `Service.submit` says."""
        try:
            with self._tracing.asked() as trace:
                return await self._submit(request, trace)
        except Unavailable as refusal:
            self.refused += 1
            self._observer.refused(refusal.code)
            raise

    async def _submit(self, request: Request, trace: Carrier | None) -> Ticket:
        new = self._drafts.draft(request, trace)
        answer: Answer
        try:
            self._readiness.admit_run()
            self._refusals.admit_principal(new.key.principal)
        except (Draining, NoWorker, HoldsFull):
            known = await self._known_by_key(new)
            if not isinstance(known, Attached | Reused):
                raise
            answer = known
        else:
            self._refusals.admit(new)
            answer = await self._acceptance.accept(new, request.on_disconnect)
        match answer:
            case Ticket():
                return answer
            case Attached(run_id=run_id):
                return await self._attachments.ticket(new.key, run_id)
            case Refused():
                raise self._refusals.error(new.key, answer)
            case Reused():
                raise reused(request)
            case Unanswerable():
                raise unanswerable(new.key, answer)

    async def _known_by_key(self, new: NewRun) -> AcceptAnswer | None:
        """Ask the journal what the key of a run stands for that cannot be accepted now; None without a key."""
        if new.keyed is None or not self._readiness.started:
            return None
        # An answer would find room, and be kept.
        asks = replace(new, lane=Lane.NORMAL, input="", on_question=OnQuestion.WAIT)
        return await self._journal.accept(asks, NO_ROOM, take=False)
