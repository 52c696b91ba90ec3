"""The logic of a client without I/O: what to send, what an answer means, where to resume.

A plan is a generator. It yields its next step, receives the step's result, and returns its own; a `NoServer` of a step
is thrown into it. So both clients behave alike, and a test needs no server.

A request is sent again only where that is safe: it only reads, has an idempotency key, or was not accepted.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Generic, Protocol, TypeVar

from strandline._model import Block
from strandline.client import _answers as answers
from strandline.client import _events as events
from strandline.client import _requests as requests
from strandline.client._answers import Reply, Run
from strandline.client._errors import ClientError, NoServer, NotFound, NotNow, NotStrandline, StreamEnded
from strandline.client._events import Event, RunFinished
from strandline.client._requests import Request, RunOptions, ScheduleOptions

T = TypeVar("T")
PageT = TypeVar("PageT", bound="Page")

PATIENCE_S: Final = 60.0
"""How long a client retries without progress, by default."""
FIRST_S: Final = 0.1
"""The wait before the first reconnect; doubled for each further one."""
RETRY_S: Final = 1.0
"""The longest of these waits, unless the server sets another (`retry` in its stream)."""
SOON_S: Final = 1.0
"""The wait between polls for the end of a run, if the server does not hold the request."""


# -- steps --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ask:
    """Send a request, and return its whole answer."""

    request: Request


@dataclass(frozen=True, slots=True)
class Open:
    """Send a request, and return its answer; if it is a stream, `Next` reads its body."""

    request: Request


@dataclass(frozen=True, slots=True)
class Next:
    """Return the next event of the open stream, None at its end."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait; `error` is why, None if nothing is wrong."""

    seconds: float
    error: ClientError | None = None


@dataclass(frozen=True, slots=True)
class Emit:
    """Yield an event to the caller."""

    event: Event


@dataclass(frozen=True, slots=True)
class Frame:
    """A server-sent event; `id` is the last id of the stream so far."""

    data: str
    id: str = ""
    retry_ms: int | None = None


Step = Ask | Open | Next | Pause | Emit
Plan = Generator[Step, Any, T]


class PlanRunner(Generic[T]):
    """Runs a plan: `step` is its next step, None once `result` is there."""

    def __init__(self, plan: Plan[T]) -> None:
        self._plan = plan
        self.step: Step | None = None
        self._results: list[T] = []
        self._advance(lambda: next(plan))

    @property
    def result(self) -> T:
        """The result of the plan."""
        return self._results[0]

    def done(self, result: Reply | Frame | None = None) -> None:
        """Advance with the result of the step."""
        self._advance(lambda: self._plan.send(result))

    def failed(self, error: NoServer) -> None:
        """Advance with the error of the step."""
        self._advance(lambda: self._plan.throw(error))

    def _advance(self, resume: Callable[[], Step]) -> None:
        try:
            self.step = resume()
        except StopIteration as end:
            self.step = None
            self._results.append(end.value)


# -- how long -----------------------------------------------------------------------------------------


class Patience:
    """Limits how long one call retries without progress, and spaces its retries.

    A call retries when the server said so, otherwise with growing waits and jitter. It does not wait for an address
    that has never answered it. `clock` returns seconds, `random` numbers from 0 to 1.
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
        """Record that a server answered."""
        self._reached = True

    def refresh(self) -> None:
        """Record progress."""
        self._since = None
        self._tries = 0

    def now(self) -> float:
        """Return the time, in seconds."""
        return self._clock()

    def wait(self, error: ClientError) -> Pause:
        """Return the pause after an error. Raises the error if that would be too long."""
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
    """Send a request, with retries, and return the answer. Raises `ClientError`."""
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
    """Submit a run and wait for its end. Raises `ClientError`."""
    reply = yield from ask(requests.new_run(session, given, options, key, wait=True), patience)
    found = answers.read(reply, answers.run)
    return found if found.ended else (yield from wait(found.run_id, patience))


def wait(run_id: str, patience: Patience) -> Plan[Run]:
    """Wait for the end of a run, even over restarts of its server. Raises `ClientError`."""
    while True:
        patience.refresh()
        sent_at = patience.now()
        reply = yield from ask(requests.run(run_id, wait=True), patience)
        found = answers.read(reply, answers.run)
        if found.ended:
            return found
        if patience.now() - sent_at < requests.WAIT_S / 2:  # (the server is stopping, and holds no request)
            yield Pause(SOON_S)


def follow(request: Request | None, run_id: str, after: int, patience: Patience) -> Plan[None]:
    """Emit the events of a run up to its end, without gap or repeat wherever the connection breaks.

    `request` submits the run; None if it exists already. Until the run's id is known, a retry sends the same request:
    its idempotency key makes it the same run. Then a retry requests the events after the last one. Raises
    `ClientError`.
    """
    while True:
        try:
            reply: Reply = yield Open(requests.events(run_id, after) if run_id or request is None else request)
            patience.reached()
            if reply.status == answers.NO_CONTENT:
                raise NotFound(f"all events of run {run_id} were sent before", code="all_told", status=reply.status)
            if reply.status != answers.OK:
                raise answers.failure(reply)
            if not reply.headers.get("content-type", "").startswith(requests.EVENTS):
                raise NotStrandline("its answer is not an event stream", status=reply.status)
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


def edit(
    run_id: str,
    given: str | list[Block] | None,
    metadata: dict[str, Any] | None,
    priority: int | None,
    etag: str | None,
    patience: Patience,
) -> Plan[Run]:
    """Edit a run that waits; return it. Raises `ClientError`: `Conflict` if it has begun or is not as `etag` says."""
    return answers.read((yield from ask(requests.edit(run_id, given, metadata, priority, etag), patience)), answers.run)


def etag(run_id: str, patience: Patience) -> Plan[str | None]:
    """Return the edition of a run; None if it cannot be edited. Raises `ClientError`."""
    reply = yield from ask(requests.run(run_id), patience)
    found = reply.headers.get("etag")
    return None if found is None else found.strip('"')


def answer(run_id: str, responses: Mapping[str, Any], key: str, patience: Patience) -> Plan[Run]:
    """Answer the input requests of a run; return the run that continues with them, accepted. Raises `ClientError`."""
    asking = answers.read((yield from ask(requests.run(run_id), patience)), answers.run)
    request = requests.new_run(asking.session_id, requests.responses(responses), {}, key)
    return answers.read((yield from ask(request, patience)), answers.run)


def runs(statuses: str | Sequence[str], limit: int | None, patience: Patience) -> Plan[list[Run]]:
    """Return runs of all sessions, newest first, of these statuses or of all. Raises `ClientError`."""
    return (
        yield from _all(limit, partial(requests.runs, statuses), answers.runs_page, lambda page: page.runs, patience)
    )


def get_run(run_id: str, patience: Patience) -> Plan[Run]:
    """Return a run as it is now. Raises `ClientError`."""
    return answers.read((yield from ask(requests.run(run_id), patience)), answers.run)


def move(run_id: str, priority: int | None, patience: Patience) -> Plan[Run]:
    """Move a run that waits; return it. Raises `ClientError`: `Conflict` if it has begun."""
    return answers.read((yield from ask(requests.move(run_id, priority), patience)), answers.run)


def session_runs(session: str, limit: int | None, patience: Patience) -> Plan[list[Run]]:
    """Return the runs of a session. Raises `ClientError`."""
    return (
        yield from _all(
            limit, partial(requests.session_runs, session), answers.runs_page, lambda page: page.runs, patience
        )
    )


def sessions(limit: int | None, patience: Patience) -> Plan[list[answers.Session]]:
    """Return sessions. Raises `ClientError`."""
    return (yield from _all(limit, requests.sessions, answers.sessions_page, lambda page: page.sessions, patience))


def session(request: Request, patience: Patience) -> Plan[answers.Session]:
    """Return the session that a request reads or changes. Raises `ClientError`."""
    return answers.read((yield from ask(request, patience)), answers.session)


def delete_session(session: str, patience: Patience) -> Plan[None]:
    """Delete a session. Raises `ClientError`: `Conflict` while a run of it waits or executes."""
    yield from ask(requests.delete_session(session), patience)


def cancel_session(session: str, running: bool, force: bool, patience: Patience) -> Plan[answers.CancelledRuns]:
    """Cancel the runs of a session. Raises `ClientError`."""
    request = requests.cancel_session(session, running=running, force=force)
    return answers.read((yield from ask(request, patience)), answers.cancelled_runs)


def one_schedule(request: Request, patience: Patience) -> Plan[answers.Schedule]:
    """Return the schedule that a request reads or changes. Raises `ClientError`."""
    return answers.read((yield from ask(request, patience)), answers.schedule)


def run_schedule(schedule_id: str, patience: Patience) -> Plan[Run]:
    """Have a run of a schedule accepted now; return it. Raises `ClientError`."""
    return answers.read((yield from ask(requests.run_schedule(schedule_id), patience)), answers.run)


def schedule(
    given: str | list[Block], session: str, options: ScheduleOptions, patience: Patience
) -> Plan[answers.Schedule]:
    """Make a schedule, and return it. Raises `ClientError`."""
    return answers.read((yield from ask(requests.new_schedule(session, given, options), patience)), answers.schedule)


def schedules(session: str | None, limit: int | None, patience: Patience) -> Plan[list[answers.Schedule]]:
    """Return schedules of a session, or of all. Raises `ClientError`."""
    return (
        yield from _all(
            limit, partial(requests.schedules, session), answers.schedules_page, lambda page: page.schedules, patience
        )
    )


def delete_schedule(schedule_id: str, patience: Patience) -> Plan[None]:
    """Delete a schedule. Raises `ClientError`."""
    yield from ask(requests.delete_schedule(schedule_id), patience)


def upload(data: bytes, name: str, session: str, patience: Patience) -> Plan[answers.File]:
    """Upload a file, and return it. Raises `ClientError`."""
    return answers.read((yield from ask(requests.upload(session, data, name), patience)), answers.file)


def files(session: str, limit: int | None, patience: Patience) -> Plan[list[answers.File]]:
    """Return files of a session. Raises `ClientError`."""
    return (
        yield from _all(limit, partial(requests.files, session), answers.files_page, lambda page: page.files, patience)
    )


def download(file_id: str, session: str, patience: Patience) -> Plan[bytes]:
    """Return the content of a file. Raises `ClientError`."""
    return (yield from ask(requests.download(session, file_id), patience)).body


def export(session: str, patience: Patience) -> Plan[bytes]:
    """Return all of a session. Raises `ClientError`."""
    return (yield from ask(requests.export(session), patience)).body


def delete_file(file_id: str, session: str, patience: Patience) -> Plan[None]:
    """Delete a file. Raises `ClientError`."""
    yield from ask(requests.delete_file(session, file_id), patience)


def webhooks(status: str | None, limit: int | None, patience: Patience) -> Plan[list[answers.Delivery]]:
    """Return events that wait to be sent, or are dead. Raises `ClientError`."""
    return (
        yield from _all(
            limit, partial(requests.webhooks, status), answers.deliveries_page, lambda page: page.webhooks, patience
        )
    )


def resend(event_id: str, patience: Patience) -> Plan[None]:
    """Send an event again. Raises `ClientError`."""
    yield from ask(requests.resend(event_id), patience)


def create_token(
    sessions: Sequence[str] | None,
    run_id: str | None,
    origin: str | None,
    routes: Sequence[str] | None,
    expires_in: float | None,
    sender: Mapping[str, str] | None,
    patience: Patience,
) -> Plan[answers.Token]:
    """Make a token. Raises `ClientError`."""
    request = requests.create_token(sessions, run_id, origin, routes, expires_in, sender)
    return answers.read((yield from ask(request, patience)), answers.token)


def test_webhook(url: str, patience: Patience) -> Plan[answers.WebhookTest]:
    """Send a test to a webhook. Raises `ClientError`."""
    return answers.read((yield from ask(requests.test_webhook(url), patience)), answers.webhook_test)


def open_tools(run_id: str, patience: Patience) -> Plan[list[answers.OpenTool]]:
    """Return the tools of a crashed run whose outcome is unknown. Raises `ClientError`: `Conflict` if it cannot
    continue."""
    return answers.read((yield from ask(requests.open_tools(run_id), patience)), answers.open_tools).tools


def resolve(run_id: str, tools: Sequence[requests.CheckedTool], key: str, patience: Patience) -> Plan[Run]:
    """Continue a crashed run with what its tools have done; return the run that does, accepted. Raises `ClientError`:
    `Conflict` if it cannot continue."""
    return answers.read((yield from ask(requests.resolve(run_id, tools, key), patience)), answers.run)


def again(run_id: str, options: requests.AgainOptions, key: str, patience: Patience) -> Plan[Run]:
    """Replace a run by one with the same input; return that, accepted. Raises `ClientError`: `Conflict` if its session
    is not at rest."""
    return answers.read((yield from ask(requests.again(run_id, options, key), patience)), answers.run)


def restore(run_id: str, patience: Patience) -> Plan[answers.Restored]:
    """Restore a superseded run. Raises `ClientError`: `Conflict` if its session is not at rest."""
    return answers.read((yield from ask(requests.restore(run_id), patience)), answers.restored)


def fork(
    session: str, to: str | None, after: str | int | None, workspace: str, key: str, patience: Patience
) -> Plan[answers.Fork]:
    """Fork a session, and return the new one. Raises `ClientError`: `Conflict` if there is one of its id, or if nothing
    ends after `after`."""
    return answers.read((yield from ask(requests.fork(session, to, after, workspace, key), patience)), answers.fork)


def tree(session: str, patience: Patience) -> Plan[answers.Tree]:
    """Return the branches of a session and its forks. Raises `ClientError`."""
    return answers.read((yield from ask(requests.tree(session), patience)), answers.tree)


def history(
    session: str, limit: int | None, discarded: bool, superseded: bool, patience: Patience
) -> Plan[list[answers.HistoryMessage]]:
    """Return the last messages of a session, oldest first; all of them without a limit. Raises `ClientError`."""

    def request(most: int, cursor: str | None) -> Request:
        return requests.history(session, most, cursor, discarded=discarded, superseded=superseded)

    found = yield from _all(limit, request, answers.history_page, lambda page: page.messages[::-1], patience)
    return found[::-1]


class Page(Protocol):
    """A part of a list."""

    @property
    def next_cursor(self) -> str | None:
        """Where the next page begins; None at the end of the list."""


def _all(
    limit: int | None,
    request: Callable[[int, str | None], Request],
    read: Callable[[bytes], PageT],
    items: Callable[[PageT], list[T]],
    patience: Patience,
) -> Plan[list[T]]:
    """Return up to `limit` items of a list, or all, page by page. Raises `ClientError`."""
    found: list[T] = []
    cursor: str | None = None
    while limit is None or len(found) < limit:
        most = requests.PAGE if limit is None else limit - len(found)
        page = answers.read((yield from ask(request(most, cursor), patience)), read)
        found += items(page)
        if (cursor := page.next_cursor) is None:
            break
    return found
