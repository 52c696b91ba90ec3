"""A2A: `POST /a2a`, JSON-RPC, on the same queues as `/chat`.

A context is a session, and a `messageId` an idempotency key. A task is a run, and the runs that answer its questions;
its id is that of the first one. Nothing of that is stored: it follows from the runs.

The error of a request of JSON-RPC is answered with 200, since clients read no other one. What is refused before it is
read has its own status.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.requests import Request
from starlette.responses import Response

from strandline._engine.reading import AnsweredRun
from strandline._engine.service import Service
from strandline._engine.streams import Later
from strandline._http import wire
from strandline._http.audit import changed
from strandline._http.caller import principal_of, session_of
from strandline._http.dialects.a2a.card import AgentCard, address, card_of, extended
from strandline._http.dialects.a2a.given import answer_of, counting, given_id, options_of, params_of, prompt_of
from strandline._http.dialects.a2a.stream import TaskEvents
from strandline._http.dialects.a2a.tasks import Step, Tasks, step_of
from strandline._http.dialects.a2a.wire import (
    READS,
    V0_3,
    V1_0,
    Fault,
    RpcError,
    RpcRequest,
    RpcResponse,
    SendParams,
    SentMessage,
    TaskParams,
    Version,
    error_of,
    rpc_body,
    version_of,
)
from strandline._http.exchange.exchange import Accepted, ClientsServerStops, Dialect, Exchange, Frames
from strandline._http.exchange.run_request import UNTIL_IT_ENDS, Responses, RunRequest
from strandline._http.exchange.sse import MEDIA_TYPE
from strandline._http.forwardable import counts_client, forwardable
from strandline._model import Input, Outcome, RunId, RunStatus, SessionId, SessionKey
from strandline._settings import AppSettings
from strandline.errors import Invalid, InvariantBroken, NotFound, StrandlineError

MADE: Final = "a2a_"
"""What the ids of sessions begin with that no client has named."""
_STREAMS: Final = frozenset({"message/stream", "SendStreamingMessage", "tasks/resubscribe", "SubscribeToTask"})
CANCEL_S: Final = 1.0
"""How long the answer to a cancel waits for the run's end, beyond the time that the run has for it."""


class Call(Struct, frozen=True):
    """A request of JSON-RPC, with the HTTP request that it came by."""

    request: Request
    rpc: RpcRequest
    version: Version

    def params(self, kind: type[Any]) -> Any:
        """Return its parameters. Raises `Invalid`."""
        return params_of(self.rpc.params, kind)

    def result(self, value: object, headers: Mapping[str, str] | None = None) -> Response:
        """Return the response with a result."""
        body = rpc_body(RpcResponse(id=self.rpc.id, result=value))
        return Response(body, wire.OK, headers, media_type="application/json")


Method = Callable[[Call], Awaitable[Response]]


class A2A:
    """The routes of A2A."""

    def __init__(
        self, service: Service, exchange: Exchange, settings: AppSettings, *, keys: bool, version: str
    ) -> None:
        self._service = service
        self._exchange = exchange
        self._settings = settings
        self._keys = keys
        self._version = version
        self._decode = msgspec.json.Decoder(RpcRequest).decode
        self._methods: dict[str, tuple[Version, Method]] = {
            "message/send": (V0_3, self._send),
            "SendMessage": (V1_0, self._send),
            "message/stream": (V0_3, self._stream),
            "SendStreamingMessage": (V1_0, self._stream),
            "tasks/get": (V0_3, self._get),
            "GetTask": (V1_0, self._get),
            "tasks/cancel": (V0_3, self._cancel),
            "CancelTask": (V1_0, self._cancel),
            "tasks/resubscribe": (V0_3, self._subscribe),
            "SubscribeToTask": (V1_0, self._subscribe),
            "agent/getAuthenticatedExtendedCard": (V0_3, self._extended_card),
            "GetExtendedAgentCard": (V1_0, self._extended_card),
        }

    async def card(self, request: Request) -> Response:
        """Return the agent card, which anybody may read."""
        return wire.answer(self._card(request))

    async def call(self, request: Request) -> Response:
        """Answer a request of JSON-RPC."""
        sent = await wire.read_body(request, self._settings.max_body_bytes)
        wire.must_be_json(request)
        rpc: RpcRequest | None = None
        version = V1_0
        try:
            version = version_of(request) or version
            rpc = self._read(sent)
            version, method = self._method(rpc.method)
            return await method(Call(request, rpc, version))
        except Fault as fault:
            return _failed(rpc, *error_of(fault, version))
        except StrandlineError as error:
            passed = forwardable(request.scope)
            if isinstance(error, InvariantBroken) or (passed is not None and passed.passes(error)):
                raise
            return _failed(rpc, *error_of(error, version))

    def _read(self, sent: bytes) -> RpcRequest:
        try:
            return wire.decoded(sent, self._decode, READS)
        except Invalid as error:
            raise Fault("INVALID_REQUEST", str(error)) from None
        except wire.Malformed as error:
            raise Fault("PARSE_ERROR", str(error)) from None

    def _method(self, name: str) -> tuple[Version, Method]:
        found = self._methods.get(name)
        if found is None:
            raise Fault("METHOD_NOT_FOUND", f"There is no method {name}; there are {', '.join(self._methods)}")
        return found

    # -- messages -------------------------------------------------------------------------------------

    async def _send(self, call: Call) -> Response:
        """Answer a message with its task: once that has ended or asks, or at once."""
        return await self._exchange.handle(_Message(self._service, self._settings, call), call.request)

    async def _stream(self, call: Call) -> Response:
        """Answer a message with its task, and what becomes of it."""
        return await self._exchange.handle(_Message(self._service, self._settings, call, as_events=True), call.request)

    # -- tasks ----------------------------------------------------------------------------------------

    async def _get(self, call: Call) -> Response:
        """Return a task as it is now."""
        tasks, task = await self._task(call)
        return call.result(tasks.task([step_of(each) for each in task.runs], dismissed=task.dismissed))

    async def _subscribe(self, call: Call) -> Response:
        """Return a task as it is now, and what it says from the beginning of its last run on."""
        counts_client(call.request)
        tasks, task = await self._task(call)
        last, steps = task.runs[-1], [step_of(each) for each in task.runs]
        is_open = last.status is RunStatus.NEEDS_INPUT and not task.dismissed
        if last.outcome is not None and not is_open and call.version is V1_0:
            raise Fault("UNSUPPORTED_OPERATION", f"Task {tasks.task_id} has ended; read it with GetTask")
        stream = await self._service.stream(principal_of(call.request), last.run_id)
        now = tasks.task(steps, dismissed=task.dismissed)
        frames = TaskEvents(tasks, last.run_id, now, rpc_id=call.rpc.id)
        return self._exchange.stream(stream, frames, {}, after=0)

    async def _cancel(self, call: Call) -> Response:
        """Cancel a task; the answer comes once its run has ended, or has had the time to."""
        tasks, task = await self._task(call)
        request, run_id, principal = call.request, task.runs[-1].run_id, principal_of(call.request)
        passed = forwardable(request.scope)
        again = passed is not None and passed.again
        view = await self._service.cancel(principal, run_id, force=False, again=again)
        changed(request, f"cancelled run {run_id} of session {view.run.key.session_id}")
        if view.run.outcome is None:
            waiting = asyncio.ensure_future(
                self._service.wait(principal, run_id, self._service.options.cancel_grace_s + CANCEL_S)
            )
            with suppress(ClientsServerStops):
                view = await self._exchange.while_connected(request, run_id, waiting)
        steps = [*map(step_of, task.runs[:-1]), step_of(view.run)]
        return call.result(tasks.task(steps, dismissed=view.run.status is RunStatus.NEEDS_INPUT))

    async def _task(self, call: Call) -> tuple[Tasks, AnsweredRun]:
        """Return the task that a request names. Raises `NotFound` in the words of this protocol."""
        params: TaskParams = call.params(TaskParams)
        run_id = RunId(params.id)
        task = await task_of(self._service, call.request, run_id)
        return Tasks(version=call.version, task_id=run_id, context_id=task.runs[0].key.session_id), task

    # -- the card -------------------------------------------------------------------------------------

    async def _extended_card(self, call: Call) -> Response:
        """Return the card with what the server accepts, to callers with a key."""
        if not self._keys:
            raise Fault("EXTENDED_AGENT_CARD_NOT_CONFIGURED", "This server has no keys, and one card for everybody")
        options = self._service.options
        limits = {
            "max_body_bytes": self._settings.max_body_bytes,
            "timeout_s": options.timeout_s,
            "queue_timeout_s": options.queue_timeout_s,
        }
        return call.result(extended(self._card(call.request), limits))

    def _card(self, request: Request) -> AgentCard:
        url = address(request, self._settings)
        return card_of(
            url,
            self._settings,
            frozenset(self._service.options.allowed_content),
            keys=self._keys,
            version=self._version,
        )


async def task_of(service: Service, request: Request, task_id: RunId) -> AnsweredRun:
    """Return the runs of a task. Raises `NotFound`."""
    try:
        return await service.with_answers(principal_of(request), task_id)
    except NotFound:
        raise NotFound(f"there is no task {task_id}") from None


class _Message(Dialect):
    """One message, as a request for a run."""

    def __init__(self, service: Service, settings: AppSettings, call: Call, *, as_events: bool = False) -> None:
        self._service = service
        self._settings = settings
        self._call = call
        self._as_events = as_events
        self._task_id: RunId | None = None
        """The task whose question it answers."""
        self._before: list[Step] = []
        """The runs of that task before this one."""

    async def parse(self, request: Request) -> RunRequest:
        """Read the message."""
        params: SendParams = self._call.params(SendParams)
        message, configuration = params.message, params.configuration
        waits = True
        if configuration is not None:
            waits = configuration.blocking is not False and not configuration.return_immediately
            if configuration.push_notification_config or configuration.task_push_notification_config:
                raise Fault("PUSH_NOTIFICATION_NOT_SUPPORTED", "This agent sends no push notifications")
        prompt: Input | Responses = prompt_of(message)
        key = self._key(request, message.context_id, message.message_id)
        if message.task_id:
            key, prompt = await self._answer(request, message)
        return RunRequest(
            key=key,
            input=prompt,
            options=options_of(params),
            body=counting(params),
            key_in_body=message.message_id,
            as_events=self._as_events,
            wait_s=UNTIL_IT_ENDS if waits else None,
        )

    async def _answer(self, request: Request, message: SentMessage) -> tuple[SessionKey, Responses]:
        """Return the answer to the question of a task. A message that is sent again is for the same one.

        Raises `NotFound`, `Invalid`, and `Fault` for a task that asks nothing.
        """
        self._task_id = RunId(message.task_id or "")
        task = await task_of(self._service, request, self._task_id)
        runs, key = task.runs, task.runs[0].key
        if message.context_id and message.context_id != key.session_id:
            raise Invalid(f"Task {self._task_id} has another context - at `$.message.contextId`")
        ids = [given_id(each.metadata) for each in runs]
        number = ids.index(message.message_id) if message.message_id in ids[1:] else len(runs)
        before = runs[number - 1].outcome
        if before is None or not before.input_requests:
            raise Fault("UNSUPPORTED_OPERATION", f"Task {self._task_id} asks nothing; leave out `taskId` for a new one")
        self._before = [step_of(each) for each in runs[:number]]
        return key, answer_of(message, before.input_requests)

    def _key(self, request: Request, context_id: str | None, message_id: str) -> SessionKey:
        """Return the session of a message; without a context a new one, the same for the same message."""
        if context_id:
            try:
                return session_of(request, context_id)
            except Invalid as error:
                raise Invalid(f"{error} - at `$.message.contextId`") from None
        principal = principal_of(request)
        digest = hashlib.sha256(f"{principal}\0{message_id}".encode()).hexdigest()
        return SessionKey(principal, SessionId(f"{MADE}{digest[:32]}"))

    async def answer(self, run: Accepted, end: Outcome | Later) -> Response:
        """Return the task. `Later`: it continues, also if the server stops, and its client may ask for it later."""
        ticket, call = run.ticket, self._call
        if ticket.attached or isinstance(end, Outcome):
            view = await self._service.run(ticket.key.principal, ticket.run_id, end=end)
            step = step_of(view.run)
        else:
            waits = ticket.position > 0 or ticket.joined is not None
            status = RunStatus.QUEUED if waits else RunStatus.RUNNING
            step = Step(run_id=ticket.run_id, status=status, at=ticket.created_at, position=ticket.position)
        return call.result(call.version.sent("task", self._tasks(run).task([*self._before, step])), run.replayed)

    def events(self, run: Accepted) -> tuple[Frames, Mapping[str, str]]:
        """Return the events of a run as those of its task, which begins as submitted."""
        ticket, tasks = run.ticket, self._tasks(run)
        step = Step(run_id=ticket.run_id, status=RunStatus.QUEUED, at=ticket.created_at, position=ticket.position)
        now = tasks.task([*self._before, step])
        return TaskEvents(tasks, ticket.run_id, now, rpc_id=self._call.rpc.id), run.replayed

    def _tasks(self, run: Accepted) -> Tasks:
        key = run.ticket.key
        return Tasks(version=self._call.version, task_id=self._task_id or run.ticket.run_id, context_id=key.session_id)


def _failed(rpc: RpcRequest | None, error: RpcError, headers: Mapping[str, str]) -> Response:
    body = rpc_body(RpcResponse(id=None if rpc is None else rpc.id, error=error))
    if rpc is not None and rpc.method in _STREAMS:  # (the client of 0.3 reads nothing else there)
        return Response(b"data: %b\n" % body, wire.OK, headers, media_type=MEDIA_TYPE)
    return Response(body, wire.BAD_REQUEST if rpc is None else wire.OK, headers, media_type="application/json")
