"""What a client does, step by step, without doing it: what to send, what an answer means, where to come back to.

A plan is a generator. It yields the next step, is sent what came of it, and returns its result; a `NoServer` that a
step ends with is thrown into it. So both clients do the same, and a test can play any server without one.

A request is sent again only where that does no harm: it reads, or carries a key, or was not accepted.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from strandline._model import Block
from strandline.client import _answers as answers
from strandline.client import _events as events
from strandline.client import _requests as requests
from strandline.client._answers import Reply, Run
from strandline.client._errors import ClientError, NoServer, NotFound, NotNow, NotStrandline, StreamEnded
from strandline.client._events import Event, RunFinished
from strandline.client._requests import Request, RunOptions

T = TypeVar("T")

PATIENCE_S: Final = 60.0
"""For how long a client goes on trying while nothing new comes, unless it is told otherwise."""
FIRST_S: Final = 0.1
"""How long to wait before a connection that broke is made again; then twice as long, and so on."""
RETRY_S: Final = 1.0
"""The longest of these waits, unless the server names another (`retry` of its stream)."""
SOON_S: Final = 1.0
"""How long to wait before asking again for the end of a run, if a server does not wait for it."""


# -- steps --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a request, and give back its whole answer."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request, and give back its answer: the body stays to be read by `Next`, if it is a stream."""

    request: Request


@dataclass(frozen=True, slots=True)
class Next:
    """Give back the next event of the open stream, None at its end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Do nothing for so many seconds; `error` is why, None if nothing is wrong."""

    seconds: float
    error: ClientError | None = None


@dataclass(frozen=True, slots=True)
class Emit:
    """Hand an event to whoever called."""

    event: Event


@dataclass(frozen=True, slots=True)
class Frame:
    """A server-sent event; `id` is the last one that a frame has named."""

    data: str
    id: str = ""
    retry_ms: int | None = None


Step = Ask | Open | Next | Pause | Emit
Plan = Generator[Step, Any, T]


class PlanRunner(Generic[T]):
    """A plan under way: `step` is what is to be done now; None when it is over, and `result` is there."""

    def __init__(self, plan: Plan[T]) -> None:
        self._plan = plan
        self.step: Step | None = None
        self._results: list[T] = []
        self._advance(lambda: next(plan))

    @property
    def result(self) -> T:
        """What came of it."""
        return self._results[0]

    def done(self, result: Reply | Frame | None = None) -> None:
        """Note that the step was done."""
        self._advance(lambda: self._plan.send(result))

    def failed(self, error: NoServer) -> None:
        """Note that the step was not done."""
        self._advance(lambda: self._plan.throw(error))

    def _advance(self, resume: Callable[[], Step]) -> None:
        try:
            self.step = resume()
        except StopIteration as end:
            self.step = None
            self._results.append(end.value)


# -- how long -----------------------------------------------------------------------------------------


class Patience:
    """For how long one call goes on without anything new, and how long it waits in between.

    A server that says when to come back is asked then; one that is gone ever more rarely, never by all its clients at
    once. Before the call has reached anybody, an address where nobody listens is no reason to wait. `clock` gives
    seconds, `random` numbers from 0 to 1.
    """

    def __init__(self, total_s: float, clock: Callable[[], float], random: Callable[[], float]) -> None:
        self._total_s = total_s
        self._clock = clock
        self._random = random
        self._since: float | None = None
        self._tries = 0
        self._reached = False
        self.longest_s = RETRY_S

    def reached(self) -> None:
        """Note that somebody was there."""
        self._reached = True

    def refresh(self) -> None:
        """Note that something new has come."""
        self._since = None
        self._tries = 0

    def now(self) -> float:
        """Return the time, in seconds."""
        return self._clock()

    def wait(self, error: ClientError) -> Pause:
        """Return how long to wait after an error. Raises it if that would be too long."""
        self._reached = self._reached or not isinstance(error, NoServer) or error.reached
        if not self._reached:
            raise error
        now = self._clock()
        since = self._since = now if self._since is None else self._since
        seconds = min(FIRST_S * 2**self._tries, self.longest_s) * (0.5 + self._random() / 2)
        if isinstance(error, NotNow) and error.retry_after_s is not None:
            seconds = error.retry_after_s
        self._tries = min(self._tries + 1, 30)
        if now + seconds - since > self._total_s:
            raise error
        return Pause(seconds, error)


# -- plans --------------------------------------------------------------------------------------------


def ask(request: Request, patience: Patience) -> Plan[Reply]:
    """Send a request until it is answered, and return the answer. Raises `ClientError`."""
    while True:
        try:
            reply: Reply = yield Ask(request)
            patience.reached()
            if reply.status < answers.FIRST_ERROR:
                return reply
            raise answers.failure(reply)
        except NotNow as error:
            pause = patience.wait(error)
        except NoServer as error:
            if error.reached and not request.again:
                raise
            pause = patience.wait(error)
        yield pause


def chat(given: str | list[Block], session: str, options: RunOptions, key: str, patience: Patience) -> Plan[Run]:
    """Have a run accepted and wait for its end. Raises `ClientError`."""
    reply = yield from ask(requests.new_run(session, given, options, key, wait=True), patience)
    found = answers.read(reply, answers.run)
    return found if found.ended else (yield from wait(found.run_id, patience))


def wait(run_id: str, patience: Patience) -> Plan[Run]:
    """Wait for the end of a run, also over restarts of its server. Raises `ClientError`."""
    while True:
        patience.refresh()
        sent_at = patience.now()
        reply = yield from ask(requests.run(run_id, wait=True), patience)
        found = answers.read(reply, answers.run)
        if found.ended:
            return found
        if patience.now() - sent_at < requests.WAIT_S / 2:  # (it is stopping, and waits for nothing)
            yield Pause(SOON_S)


def follow(request: Request | None, run_id: str, after: int, patience: Patience) -> Plan[None]:
    """Tell the events of a run until its end, without a gap or a repeat wherever the connection breaks.

    `request` asks for the run, None if it is there already. As long as nobody has said which run that is, it is sent
    again: its key makes it the same run. Then the run's events are asked for, those after the last one. Raises
    `ClientError`.
    """
    while True:
        try:
            reply: Reply = yield Open(requests.events(run_id, after) if run_id or request is None else request)
            patience.reached()
            if reply.status == answers.NO_CONTENT:
                raise NotFound(f"all of run {run_id} was told before", code="all_told", status=reply.status)
            if reply.status != answers.OK:
                raise answers.failure(reply)
            if not reply.headers.get("content-type", "").startswith(requests.EVENTS):
                raise NotStrandline("its answer is no stream of events", status=reply.status)
            run_id = run_id or reply.headers.get("location", "").rpartition("/")[2]
            while (frame := (yield Next())) is not None:
                if frame.retry_ms is not None:
                    patience.longest_s = frame.retry_ms / 1000
                if frame.data:
                    event = events.read(frame.data, frame.id)
                    run_id, after = event.run_id or run_id, event.id or after
                    patience.refresh()
                    yield Emit(event)
                    if isinstance(event, RunFinished):
                        return
            raise StreamEnded
        except (NotNow, NoServer) as error:
            pause = patience.wait(error)
        yield pause


def cancel(run_id: str, force: bool, patience: Patience) -> Plan[Run]:
    """Cancel a run and return it. Raises `ClientError`: `Conflict` if it had ended."""
    return answers.read((yield from ask(requests.cancel(run_id, force=force), patience)), answers.run)


def answer(run_id: str, responses: Mapping[str, Any], key: str, patience: Patience) -> Plan[Run]:
    """Answer what a run has asked; return the run that goes on with it, accepted. Raises `ClientError`."""
    asking = answers.read((yield from ask(requests.run(run_id), patience)), answers.run)
    request = requests.new_run(asking.session_id, requests.responses(responses), {}, key)
    return answers.read((yield from ask(request, patience)), answers.run)


def runs(statuses: str | Sequence[str], limit: int | None, patience: Patience) -> Plan[list[Run]]:
    """Return runs of all sessions, the last accepted first, of these statuses or of all. Raises `ClientError`."""
    found: list[Run] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        most = requests.PAGE if limit is None else limit - len(found)
        page = answers.read((yield from ask(requests.runs(statuses, most, cursor), patience)), answers.runs_page)
        found += page.runs
        if (cursor := page.next_cursor) is None:
            break
    return found


def history(session: str, limit: int | None, discarded: bool, patience: Patience) -> Plan[list[answers.HistoryMessage]]:
    """Return the last messages of a session, oldest first; all of them without a limit. Raises `ClientError`."""
    found: list[answers.HistoryMessage] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        most = requests.PAGE if limit is None else limit - len(found)
        request = requests.history(session, most, cursor, discarded=discarded)
        page = answers.read((yield from ask(request, patience)), answers.history_page)
        found = [*page.messages, *found]
        if (cursor := page.next_cursor) is None:
            break
    return found
