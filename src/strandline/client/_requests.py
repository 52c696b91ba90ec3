"""The requests that a client can send, as values."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Literal, NotRequired, TypedDict
from urllib.parse import quote, urlsplit

from strandline._encoding import encode_messages
from strandline._model import Block, IfBusy, OnDisconnect, OnQuestion, Sender, Webhook
from strandline.client._errors import ClientError

QUIET_S: Final = 45.0
"""How long a stream may be silent: a server sends a sign of life every 15 s."""
READ_S: Final = 30.0
"""How long any other answer may take, besides the requested wait."""
WAIT_S: Final = 30
"""How long a request waits for the end of a run: below the timeout of most proxies."""
PAGE: Final = 1000
"""The most entries of a page."""
EVENTS: Final = "text/event-stream"
_KEY: Final = re.compile(r"[\x20-\x7e]{1,255}")


class RunOptions(TypedDict, total=False):
    """Options of a run, as keywords of `chat` and `run`; durations are seconds, times have a time zone.
    docs/reference.md explains each.

    With an `idempotency_key` another process can send the same request again, and gets the same run.
    """

    if_busy: IfBusy | Literal["enqueue", "reject", "interrupt", "rollback", "steer", "collect"]
    expected_run_id: str
    collect: Mapping[str, float]
    after: str | None
    on_question: OnQuestion | Literal["wait", "answer", "dismiss"]
    priority: int
    timeout: float
    queue_timeout: float
    not_before: datetime
    on_disconnect: OnDisconnect | Literal["continue", "cancel", "cancel_if_queued"]
    metadata: dict[str, Any]
    sender: Sender | Mapping[str, str]
    webhook: Webhook | Mapping[str, Any]
    idempotency_key: str


class AgainOptions(TypedDict, total=False):
    """Options of a run that replaces another one, as keywords of `again`; durations are seconds.
    docs/reference.md explains each."""

    if_busy: IfBusy | Literal["interrupt", "rollback"]
    priority: int
    timeout: float
    queue_timeout: float
    on_disconnect: OnDisconnect | Literal["continue", "cancel", "cancel_if_queued"]
    metadata: dict[str, Any]


class ScheduleOptions(TypedDict, total=False):
    """Options of a schedule, as keywords of `schedule`; one of `cron`, `every` (seconds) and `at` is needed.

    docs/reference.md explains each.
    """

    cron: str
    every: float
    at: datetime
    timezone: str
    overlap: Literal["enqueue", "skip", "replace"]
    missed: Literal["once", "skip", "all"]
    priority: int
    timeout: float
    queue_timeout: float
    metadata: dict[str, Any]
    sender: Sender | Mapping[str, str]
    webhook: Webhook | Mapping[str, Any]
    paused: bool


class ScheduleChanges(ScheduleOptions, total=False):
    """What to change of a schedule, as keywords of `change_schedule`: its `input`, or an option."""

    input: str | list[Block]


class SessionOptions(TypedDict, total=False):
    """Default options of the runs of a session, as keywords of `set_options`; None removes one.

    docs/reference.md explains each.
    """

    if_busy: IfBusy | Literal["enqueue", "reject", "interrupt", "rollback", "steer", "collect"] | None
    collect: Mapping[str, float] | None
    on_question: OnQuestion | Literal["wait", "answer", "dismiss"] | None
    priority: int | None
    timeout: float | None
    queue_timeout: float | None
    on_disconnect: OnDisconnect | Literal["continue", "cancel", "cancel_if_queued"] | None
    metadata: dict[str, Any] | None
    sender: Sender | Mapping[str, str] | None
    webhook: Webhook | Mapping[str, Any] | None


class CheckedTool(TypedDict):
    """A tool call of a crashed run, and what a person found out: it was done, with this `result` if that is known, or
    not, and starts again."""

    tool_use_id: str
    outcome: Literal["done", "not_done"]
    result: NotRequired[Any]


@dataclass(frozen=True, slots=True)
class Request:
    """A request. `again`: sending it twice is safe. `read_s`: how long the connection may be silent."""

    method: str
    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    again: bool = True
    read_s: float = READ_S


def anything(method: str, path: str, body: object = None, query: Mapping[str, str] | None = None) -> Request:
    """Return a request to any route; it is sent again only if it reads. Raises `ClientError` for another server's."""
    to = urlsplit(path)
    if to.scheme or to.netloc:  # (it would be sent there, with the API key)
        raise ClientError(f"{path!r} must be a path of the server, such as /v1/runs", code="invalid")
    return _request(method, path, body, query=query or {}, again=method in ("GET", "HEAD"))


def new_run(
    session: str, given: "str | list[Block] | Mapping[str, Any]", options: RunOptions, key: str, *, wait: bool = False
) -> Request:
    """Return the request that submits a run under a key; with `wait` it waits for the end, for a while.

    Raises `ClientError` for a key that no header can carry.
    """
    body: dict[str, Any] = {"input": given, **options}
    key = str(body.pop("idempotency_key", key))
    if _KEY.fullmatch(key) is None:
        raise ClientError("idempotency_key must be 1 to 255 printable ASCII characters", code="invalid")
    headers = {"Idempotency-Key": f'"{_escaped(key)}"'}
    path = f"{_session(session)}/runs"
    return _request("POST", path, body, headers=headers | _prefer(wait), read_s=READ_S + (WAIT_S if wait else 0))


def streamed(request: Request) -> Request:
    """Return the same request, answered with the events of the run."""
    headers = {**request.headers, "Accept": EVENTS}
    return Request(request.method, request.path, request.body, headers, request.query, read_s=QUIET_S)


def events(run_id: str, after: int) -> Request:
    """Return the request for the events of a run after number `after`, 0 for all."""
    headers = {"Accept": EVENTS, **({"Last-Event-ID": str(after)} if after else {})}
    return _request("GET", f"{_run(run_id)}/events", headers=headers, read_s=QUIET_S)


def run(run_id: str, *, wait: bool = False) -> Request:
    """Return the request for a run; with `wait` it waits for the end, for a while."""
    return _request("GET", _run(run_id), headers=_prefer(wait), read_s=READ_S + (WAIT_S if wait else 0))


def runs(statuses: str | Sequence[str], limit: int, cursor: str | None) -> Request:
    """Return the request for a page of the runs of all sessions."""
    named = statuses if isinstance(statuses, str) else ",".join(statuses)
    query = {"limit": str(min(limit, PAGE)), **({"status": named} if named else {})}
    return _request("GET", "/v1/runs", query=query if cursor is None else {**query, "cursor": cursor})


def session_runs(session: str, limit: int, cursor: str | None) -> Request:
    """Return the request for a page of the runs of a session."""
    query = {"limit": str(min(limit, PAGE))}
    return _request("GET", f"{_session(session)}/runs", query=query if cursor is None else {**query, "cursor": cursor})


def move(run_id: str, priority: int | None) -> Request:
    """Return the request to move a run, with None to the front. It may be sent again: it moves there again.

    If it has started by then, it is no longer moved.
    """
    return _request("POST", f"{_run(run_id)}/move", {"front": True} if priority is None else {"priority": priority})


def sessions(limit: int, cursor: str | None) -> Request:
    """Return the request for a page of sessions."""
    query = {"limit": str(min(limit, PAGE))}
    return _request("GET", "/v1/sessions", query=query if cursor is None else {**query, "cursor": cursor})


def session(session: str) -> Request:
    """Return the request for a session."""
    return _request("GET", _session(session))


def delete_session(session: str) -> Request:
    """Return the request to delete a session."""
    return _request("DELETE", _session(session), again=False)


def set_options(session: str, options: Mapping[str, Any] | None) -> Request:
    """Return the request to change the default options of a session, with None to remove all. It may be sent again."""
    return _request("PATCH", _session(session), {"options": options})


def of_session(session: str, what: Literal["pause", "resume"]) -> Request:
    """Return the request to pause or resume a session. It may be sent again: nothing happens then."""
    return _request("POST", f"{_session(session)}/{what}")


def cancel_session(session: str, *, running: bool, force: bool) -> Request:
    """Return the request to cancel the runs of a session."""
    return _request("POST", f"{_session(session)}/cancel", {"running": running, "force": force}, again=False)


def schedule(schedule_id: str) -> Request:
    """Return the request for a schedule."""
    return _request("GET", _schedule(schedule_id))


def change_schedule(schedule_id: str, changes: ScheduleChanges) -> Request:
    """Return the request to change a schedule."""
    return _request("PATCH", _schedule(schedule_id), dict(changes), again=False)


def run_schedule(schedule_id: str) -> Request:
    """Return the request for a run of a schedule now."""
    return _request("POST", f"{_schedule(schedule_id)}/run", again=False)


def cancel(run_id: str, *, force: bool) -> Request:
    """Return the request to cancel a run."""
    return _request("POST", f"{_run(run_id)}/cancel", {"force": force})


def edit(
    run_id: str,
    given: "str | list[Block] | None",
    metadata: dict[str, Any] | None,
    priority: int | None,
    etag: str | None,
) -> Request:
    """Return the request to edit a run. It is sent again only if nothing of others can be lost by that."""
    parts = {"input": given, "metadata": metadata, "priority": priority}
    headers = {} if etag is None else {"If-Match": f'"{etag}"'}
    body = {name: part for name, part in parts.items() if part is not None}
    return _request("PATCH", _run(run_id), body, headers=headers, again=etag is not None)


def new_schedule(session: str, given: "str | list[Block]", options: ScheduleOptions) -> Request:
    """Return the request that makes a schedule. It is not sent again unless it was refused: it would make another."""
    return _request("POST", "/v1/schedules", {"session_id": session, "input": given, **options}, again=False)


def schedules(session: str | None, limit: int, cursor: str | None) -> Request:
    """Return the request for a page of schedules."""
    query = {"limit": str(min(limit, PAGE)), **({} if session is None else {"session_id": session})}
    return _request("GET", "/v1/schedules", query=query if cursor is None else {**query, "cursor": cursor})


def webhooks(status: str | None, limit: int, cursor: str | None) -> Request:
    """Return the request for a page of events for webhooks."""
    query = {"limit": str(min(PAGE, limit))} | ({} if status is None else {"status": status})
    return _request("GET", "/v1/webhooks", query=query if cursor is None else {**query, "cursor": cursor})


def resend(event_id: str) -> Request:
    """Return the request that sends an event again."""
    return _request("POST", f"/v1/webhooks/{quote(event_id, safe='')}/resend", again=False)


def create_token(
    sessions: Sequence[str] | None,
    run_id: str | None,
    origin: str | None,
    routes: Sequence[str] | None,
    expires_in: float | None,
    sender: Mapping[str, str] | None,
) -> Request:
    """Return the request for a token of the caller's key."""
    wanted = {"sessions": sessions, "run_id": run_id, "routes": routes, "expires_in": expires_in, "sender": sender}
    body = {name: value for name, value in wanted.items() if value is not None}
    return _request("POST", "/v1/tokens", {**body, "origin": origin}, again=True)


def test_webhook(url: str) -> Request:
    """Return the request that sends a test to a webhook."""
    return _request("POST", "/v1/webhooks/test", {"url": url}, again=False)


def delete_schedule(schedule_id: str) -> Request:
    """Return the request to delete a schedule."""
    return _request("DELETE", f"/v1/schedules/{quote(schedule_id, safe='')}", again=False)


def upload(session: str, data: bytes, name: str) -> Request:
    """Return the request that uploads a file. It is not sent again unless it was refused: it would be another file."""
    headers = {"Accept": "application/json", "Content-Type": "application/octet-stream"}
    query = {"name": name} if name else {}
    return Request("POST", _files(session), data, headers, query, again=False, read_s=WAIT_S)


def files(session: str, limit: int, cursor: str | None) -> Request:
    """Return the request for a page of a session's files."""
    query = {"limit": str(min(limit, PAGE))}
    return _request("GET", _files(session), query=query if cursor is None else {**query, "cursor": cursor})


def download(session: str, file_id: str) -> Request:
    """Return the request for the content of a file."""
    return _request("GET", f"{_files(session)}/{quote(file_id, safe='')}", headers={"Accept": "*/*"}, read_s=WAIT_S)


def export(session: str) -> Request:
    """Return the request for all of a session."""
    path = f"{_session(session)}/export"
    return _request("GET", path, headers={"Accept": "*/*"}, read_s=WAIT_S)


def delete_file(session: str, file_id: str) -> Request:
    """Return the request to delete a file."""
    return _request("DELETE", f"{_files(session)}/{quote(file_id, safe='')}", again=False)


def open_tools(run_id: str) -> Request:
    """Return the request for the tools of a crashed run whose outcome is unknown."""
    return _request("GET", f"{_run(run_id)}/resolve")


def resolve(run_id: str, tools: Sequence[CheckedTool], key: str) -> Request:
    """Return the request to continue a crashed run, under a key."""
    headers = {"Idempotency-Key": f'"{_escaped(key)}"'}
    return _request("POST", f"{_run(run_id)}/resolve", {"tools": list(tools)}, headers=headers)


def again(run_id: str, options: AgainOptions, key: str) -> Request:
    """Return the request to replace a run, under a key."""
    headers = {"Idempotency-Key": f'"{_escaped(key)}"'}
    return _request("POST", f"{_run(run_id)}/again", dict(options), headers=headers)


def restore(run_id: str) -> Request:
    """Return the request to restore a superseded run. It may be sent again: nothing happens then."""
    return _request("POST", f"{_run(run_id)}/restore")


def fork(session: str, to: str | None, after: str | int | None, workspace: str, key: str) -> Request:
    """Return the request to fork a session, under a key."""
    headers = {"Idempotency-Key": f'"{_escaped(key)}"'}
    place = {"message": after} if isinstance(after, int) else after
    named = {"session_id": to, "after": place, "workspace": None if workspace == "empty" else workspace}
    body = {name: given for name, given in named.items() if given is not None}
    return _request("POST", f"{_session(session)}/fork", body, headers=headers)


def tree(session: str) -> Request:
    """Return the request for the branches of a session and its forks."""
    return _request("GET", f"{_session(session)}/tree")


def history(session: str, limit: int, cursor: str | None, *, discarded: bool, superseded: bool) -> Request:
    """Return the request for a page of history."""
    hidden = {"discarded": discarded, "superseded": superseded}
    query = {"limit": str(min(limit, PAGE)), **{name: "true" for name, shown in hidden.items() if shown}}
    if cursor is not None:
        query["cursor"] = cursor
    return _request("GET", f"{_session(session)}/history", query=query)


def responses(answers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the input of a run that answers input requests, by their ids."""
    return {"responses": [{"id": each, "response": response} for each, response in answers.items()]}


def _request(
    method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None, **more: Any
) -> Request:
    headers = {"Accept": "application/json", **(headers or {})}
    if body is not None:
        headers["Content-Type"] = "application/json"
    return Request(method, path, None if body is None else encode_messages(body), headers, **more)


def _prefer(wait: bool) -> dict[str, str]:
    return {"Prefer": f"wait={WAIT_S}"} if wait else {}


def _files(session: str) -> str:
    return f"{_session(session)}/files"


def _session(session: str) -> str:
    return f"/v1/sessions/{quote(session, safe='')}"


def _schedule(schedule_id: str) -> str:
    return f"/v1/schedules/{quote(schedule_id, safe='')}"


def _run(run_id: str) -> str:
    return f"/v1/runs/{quote(run_id, safe='')}"


def _escaped(key: str) -> str:
    return key.replace("\\", "\\\\").replace('"', '\\"')
