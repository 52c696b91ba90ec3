"""`AsyncClient`: a server, for async code. It carries out plans (`_plans`), and decides nothing."""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from os import PathLike
from typing import Any, Literal, Self, TypeVar, Unpack
from uuid import uuid4

import httpx
from httpx_sse import EventSource, ServerSentEvent

from strandline._model import DEFAULT_SESSION, Block
from strandline.client import _answers as answers
from strandline.client import _plans as plans
from strandline.client import _requests as requests
from strandline.client import _transport as transport
from strandline.client._answers import (
    CancelledRuns,
    Delivery,
    File,
    Fork,
    HistoryMessage,
    OpenTool,
    Reply,
    Restored,
    Run,
    Schedule,
    Session,
    Token,
    Tree,
    WebhookTest,
)
from strandline.client._errors import ClientError, NoServer
from strandline.client._events import Event
from strandline.client._plans import Ask, Emit, Frame, Next, Open, Patience, Pause, Plan, PlanRunner
from strandline.client._requests import (
    AgainOptions,
    CheckedTool,
    RunOptions,
    ScheduleChanges,
    ScheduleOptions,
    SessionOptions,
)

T = TypeVar("T")


class AsyncClient:
    """A server at an address. Use it in an `async with`, or close it; it belongs to one event loop.

    `key` is an API key. While the server restarts or refuses for now, a call retries for up to `patience_s` seconds
    without progress; 0 never retries. `on_pause` is called before each wait with the reason and its seconds.
    All methods raise `ClientError`.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        patience_s: float = plans.PATIENCE_S,
        on_pause: Callable[[ClientError, float], None] | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self._patience_s = patience_s
        self._on_pause = on_pause
        with transport.connecting(self.url):
            self._http = httpx.AsyncClient(**transport.options(self.url, key))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections."""
        await self._http.aclose()

    # -- runs --------------------------------------------------------------------------------------

    async def chat(
        self, text: str | list[Block], session_id: str = DEFAULT_SESSION, **options: Unpack[RunOptions]
    ) -> Run:
        """Send a message, wait for the end of its run, and return the run: its `output` is the answer."""
        return await self._do(plans.chat(text, session_id, options, _key(), self._patience()))

    def run(
        self, text: str | list[Block], session_id: str = DEFAULT_SESSION, **options: Unpack[RunOptions]
    ) -> AsyncGenerator[Event, None]:
        """Send a message, and iterate over the events of its run up to `RunFinished`. The first step sends the request.

        To stop iterating is to unsubscribe (at once within `contextlib.aclosing`); the run continues.
        """
        request = requests.streamed(requests.new_run(session_id, text, options, _key()))
        return self._iterate(plans.follow(request, "", 0, self._patience()))

    def events(self, run_id: str, after: int = 0) -> AsyncGenerator[Event, None]:
        """Iterate over the events of an existing run, from the one after id `after` up to its end."""
        return self._iterate(plans.follow(None, run_id, after, self._patience()))

    async def wait(self, run_id: str) -> Run:
        """Wait for the end of a run, and return it."""
        return await self._do(plans.wait(run_id, self._patience()))

    async def cancel(self, run_id: str, *, force: bool = False) -> Run:
        """Cancel a run and return it: ended, or asked to stop. Raises `Conflict` if it had already ended otherwise."""
        return await self._do(plans.cancel(run_id, force, self._patience()))

    async def edit(
        self,
        run_id: str,
        text: str | list[Block] | None = None,
        *,
        metadata: dict[str, Any] | None = None,
        priority: int | None = None,
        etag: str | None = None,
    ) -> Run:
        """Replace the input, all metadata or the priority of a run that waits, and return it.

        With `etag` only if it still is as `etag` has found it. Raises `Conflict` if it is not, or if the run has begun.
        """
        return await self._do(plans.edit(run_id, text, metadata, priority, etag, self._patience()))

    async def etag(self, run_id: str) -> str | None:
        """Return what names the input, metadata and priority of a run as they are; None if it cannot be edited."""
        return await self._do(plans.etag(run_id, self._patience()))

    async def answer(self, run_id: str, responses: Mapping[str, Any]) -> Run:
        """Answer the input requests of a run, by their ids; return the run that continues with the answers."""
        return await self._do(plans.answer(run_id, responses, _key(), self._patience()))

    async def runs(self, statuses: str | Sequence[str] = (), limit: int | None = None) -> list[Run]:
        """Return the latest `limit` runs of all sessions, or all, newest first; with `statuses` only those."""
        return await self._do(plans.runs(statuses, limit, self._patience()))

    async def open_tools(self, run_id: str) -> list[OpenTool]:
        """Return the tool calls of a crashed run whose outcome is unknown. Raises `Conflict` if it cannot continue."""
        return await self._do(plans.open_tools(run_id, self._patience()))

    async def resolve(self, run_id: str, tools: Sequence[CheckedTool]) -> Run:
        """Continue a crashed run with what each of its `open_tools` has done; return the run that does.

        Raises `Conflict` if it cannot continue.
        """
        return await self._do(plans.resolve(run_id, tools, _key(), self._patience()))

    async def again(self, run_id: str, **options: Unpack[AgainOptions]) -> Run:
        """Replace a run: the conversation continues from where it began, with the same input. Return the new run.

        Raises `Conflict` unless the session is at rest, or `if_busy` is `interrupt` or `rollback`.
        """
        return await self._do(plans.again(run_id, options, _key(), self._patience()))

    async def restore(self, run_id: str) -> Restored:
        """Have the conversation continue where it ended when a superseded run was last in it.

        Raises `Conflict` unless the session is at rest.
        """
        return await self._do(plans.restore(run_id, self._patience()))

    async def fork(
        self,
        session_id: str = DEFAULT_SESSION,
        to: str | None = None,
        *,
        after: str | int | None = None,
        workspace: Literal["empty", "copy"] = "empty",
        idempotency_key: str | None = None,
    ) -> Fork:
        """Make a session that begins with the history of another one, and return it; without `to` it gets an id.

        The copy ends after run `after`, or after the run with the message of this index; else it is all of history.
        Its workspace is empty, or a copy of the other one's as it is now.
        Raises `Conflict` if there is a session `to`, or if nothing can end there.
        """
        return await self._do(plans.fork(session_id, to, after, workspace, idempotency_key or _key(), self._patience()))

    async def tree(self, session_id: str = DEFAULT_SESSION) -> Tree:
        """Return the branches of a session's history and the sessions that were forked from it, without messages."""
        return await self._do(plans.tree(session_id, self._patience()))

    async def history(
        self,
        session_id: str = DEFAULT_SESSION,
        limit: int | None = None,
        *,
        discarded: bool = False,
        superseded: bool = False,
    ) -> list[HistoryMessage]:
        """Return the last `limit` messages of a session, or all, oldest first; with `discarded` and `superseded` the
        hidden ones too."""
        return await self._do(plans.history(session_id, limit, discarded, superseded, self._patience()))

    async def schedule(
        self, text: str | list[Block], session_id: str = DEFAULT_SESSION, **options: Unpack[ScheduleOptions]
    ) -> Schedule:
        """Make a schedule: runs with this input, at the times of `cron`, `every` or `at`. Return it."""
        return await self._do(plans.schedule(text, session_id, options, self._patience()))

    async def schedules(self, session_id: str | None = None, limit: int | None = None) -> list[Schedule]:
        """Return up to `limit` schedules of a session, or of all."""
        return await self._do(plans.schedules(session_id, limit, self._patience()))

    async def get_run(self, run_id: str) -> Run:
        """Return a run as it is now."""
        return await self._do(plans.get_run(run_id, self._patience()))

    async def move(self, run_id: str, priority: int | None = None) -> Run:
        """Give a run that waits another priority (1 to 5, 1 first), or move it to the front; return it.

        Raises `Conflict` if it has begun.
        """
        return await self._do(plans.move(run_id, priority, self._patience()))

    async def session_runs(self, session_id: str = DEFAULT_SESSION, limit: int | None = None) -> list[Run]:
        """Return up to `limit` runs of a session: those that wait, last first, then what executes, then the ended."""
        return await self._do(plans.session_runs(session_id, limit, self._patience()))

    async def sessions(self, limit: int | None = None) -> list[Session]:
        """Return up to `limit` sessions, or all; to an operator those of all callers."""
        return await self._do(plans.sessions(limit, self._patience()))

    async def session(self, session_id: str = DEFAULT_SESSION) -> Session:
        """Return a session."""
        return await self._do(plans.session(requests.session(session_id), self._patience()))

    async def set_options(
        self, session_id: str = DEFAULT_SESSION, *, clear: bool = False, **options: Unpack[SessionOptions]
    ) -> Session:
        """Set default options of the runs of a session, and return it; `clear` alone removes all.

        Raises `ValueError` for `clear` with options.
        """
        if clear and options:
            raise ValueError("clear removes all options: call set_options once more to set others")
        request = requests.set_options(session_id, None if clear else options)
        return await self._do(plans.session(request, self._patience()))

    async def pause(self, session_id: str = DEFAULT_SESSION) -> Session:
        """Pause a session: its runs are accepted, and none starts. Return it."""
        return await self._do(plans.session(requests.of_session(session_id, "pause"), self._patience()))

    async def resume(self, session_id: str = DEFAULT_SESSION) -> Session:
        """Resume a paused session, and return it."""
        return await self._do(plans.session(requests.of_session(session_id, "resume"), self._patience()))

    async def cancel_session(
        self, session_id: str = DEFAULT_SESSION, *, running: bool = False, force: bool = False
    ) -> CancelledRuns:
        """Cancel all waiting runs of a session, with `running` the one that executes too."""
        return await self._do(plans.cancel_session(session_id, running, force, self._patience()))

    async def delete_session(self, session_id: str) -> None:
        """Delete a session with its history. Raises `Conflict` while a run of it waits or executes."""
        await self._do(plans.delete_session(session_id, self._patience()))

    async def get_schedule(self, schedule_id: str) -> Schedule:
        """Return a schedule."""
        return await self._do(plans.one_schedule(requests.schedule(schedule_id), self._patience()))

    async def change_schedule(self, schedule_id: str, **changes: Unpack[ScheduleChanges]) -> Schedule:
        """Change a schedule and return it: its `input`, its times, `paused`, or another option."""
        return await self._do(plans.one_schedule(requests.change_schedule(schedule_id, changes), self._patience()))

    async def run_schedule(self, schedule_id: str) -> Run:
        """Have a run of a schedule accepted now, beside its times; return it."""
        return await self._do(plans.run_schedule(schedule_id, self._patience()))

    async def delete_schedule(self, schedule_id: str) -> None:
        """Delete a schedule. Its runs stay."""
        await self._do(plans.delete_schedule(schedule_id, self._patience()))

    async def upload(
        self, file: bytes | str | PathLike[str], session_id: str = DEFAULT_SESSION, *, name: str | None = None
    ) -> File:
        """Upload a file: its content, or its path. Return it: `{"file": file.file_id}` in the input of a run names it.

        `name` is by default that of the path.
        """
        data, its_name = await asyncio.to_thread(transport.content_of, file)
        return await self._do(plans.upload(data, its_name if name is None else name, session_id, self._patience()))

    async def files(self, session_id: str = DEFAULT_SESSION, limit: int | None = None) -> list[File]:
        """Return up to `limit` files of a session."""
        return await self._do(plans.files(session_id, limit, self._patience()))

    async def download(self, file_id: str, session_id: str = DEFAULT_SESSION) -> bytes:
        """Return the content of a file."""
        return await self._do(plans.download(file_id, session_id, self._patience()))

    async def export(self, session_id: str = DEFAULT_SESSION) -> bytes:
        """Return all of a session as a zip: its history, its runs, its options and its files."""
        return await self._do(plans.export(session_id, self._patience()))

    async def delete_file(self, file_id: str, session_id: str = DEFAULT_SESSION) -> None:
        """Delete a file. Messages that name it say from now on that it is gone."""
        await self._do(plans.delete_file(file_id, session_id, self._patience()))

    async def webhooks(self, status: str | None = None, limit: int | None = None) -> list[Delivery]:
        """Return up to `limit` events that wait to be sent to webhooks or are dead, or those of a status."""
        return await self._do(plans.webhooks(status, limit, self._patience()))

    async def resend(self, event_id: str) -> None:
        """Send an event again at once, as often as a new one."""
        await self._do(plans.resend(event_id, self._patience()))

    async def create_token(
        self,
        sessions: Sequence[str] | None = None,
        *,
        origin: str | None,
        run_id: str | None = None,
        routes: Sequence[str] | None = None,
        expires_in: float | None = None,
        sender: Mapping[str, str] | None = None,
    ) -> Token:
        """Make a token for web pages of an origin (None: for programs that are no pages), so that they need no key.

        It is for some sessions, and maybe some `routes` such as `POST /chat`; or in place of that for the events of
        one run, and may stand in their URL. It is valid for `expires_in` seconds.
        """
        return await self._do(
            plans.create_token(sessions, run_id, origin, routes, expires_in, sender, self._patience())
        )

    async def test_webhook(self, url: str) -> WebhookTest:
        """Have the server send a test to a webhook; return whether it was received."""
        return await self._do(plans.test_webhook(url, self._patience()))

    async def ask(
        self, method: str, path: str, body: object = None, *, query: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Call any other route and return its JSON object, `{}` if it has none.

        A change is sent again only if it was refused.
        """
        reply = await self._do(plans.ask(requests.anything(method, path, body, query), self._patience()))
        return answers.json_object(reply)

    # -- carrying out ------------------------------------------------------------------------------

    def _patience(self) -> Patience:
        return Patience(self._patience_s, time.monotonic, random.random)

    async def _do(self, plan: Plan[T]) -> T:
        course = PlanRunner(plan)
        async for _ in self._events(course):
            raise AssertionError("only `follow` emits events")
        return course.result

    def _iterate(self, plan: Plan[None]) -> AsyncGenerator[Event, None]:
        return self._events(PlanRunner(plan))

    async def _events(self, course: PlanRunner[T]) -> AsyncGenerator[Event, None]:
        async with aclosing(_Connection(self._http, self.url, self._on_pause)) as line:
            while (step := course.step) is not None:
                if isinstance(step, Emit):
                    yield step.event
                    course.done()
                    continue
                try:
                    done = await line.do(step)
                except NoServer as error:
                    course.failed(error)
                else:
                    course.done(done)


class _Connection:
    """The connection of one call: carries out its steps, and holds its open stream."""

    def __init__(
        self, http: httpx.AsyncClient, url: str, on_pause: Callable[[ClientError, float], None] | None
    ) -> None:
        self._http = http
        self._url = url
        self._on_pause = on_pause
        self._response: httpx.Response | None = None
        self._frames: AsyncIterator[ServerSentEvent]

    async def do(self, step: Ask | Open | Next | Pause) -> Reply | Frame | None:
        """Carry out a step and return its result. Raises `NoServer`, and `ClientError` if the client is closed."""
        match step:
            case Next():
                with transport.translating_errors(self._url):
                    event = await anext(self._frames, None)
                return None if event is None else transport.frame(event)
            case Pause(seconds, error):
                await self.aclose()
                if error is not None and self._on_pause is not None:
                    self._on_pause(error, seconds)
                await asyncio.sleep(seconds)
                return None
            case Ask(request) | Open(request):
                await self.aclose()
                transport.check_open(self._http)
                with transport.translating_errors(self._url):
                    response = self._response = await self._http.send(
                        self._http.build_request(**transport.sent(request)), stream=True
                    )
                    if isinstance(step, Open) and transport.is_stream(response):
                        self._frames = EventSource(response).aiter_sse()
                        return transport.reply(response)
                    return transport.reply(response, await response.aread())

    async def aclose(self) -> None:
        """Close the open stream, if any."""
        if self._response is not None:
            await self._response.aclose()
            self._response = None


def _key() -> str:
    return uuid4().hex
