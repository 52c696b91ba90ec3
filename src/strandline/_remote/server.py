"""`RemoteServer`: the run API of one server, for commands that show and change runs.

Each call is one request (for a list: one per page), and returns the server's answer unchanged. A refusal is an error
whose message is a paragraph for people.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Self, TypeVar, cast
from urllib.parse import quote

from msgspec import to_builtins

from strandline._remote.errors import NotAServer, RemoteError, connecting, unauthorized, unreachable, why
from strandline.client import _requests as requests
from strandline.client._errors import ClientError, Conflict, NoServer, NotFound, NotNow, Refused, Unauthorized
from strandline.client._requests import PAGE
from strandline.client._sync_client import Client

_LISTS: Final = {
    "runs": "`strandline runs SESSION` lists the runs of a session",
    "asked": "`strandline answer SESSION` shows the open questions of a session",
    "sessions": "`strandline sessions` lists the sessions",
    "schedules": "`strandline schedules` lists the schedules",
    "files": "`strandline files SESSION` lists the files of a session",
    "webhooks": "`strandline webhooks` lists the events",
}

T = TypeVar("T")
Body = dict[str, Any]


class UnknownId(RemoteError):
    """The server knows no such run or session."""


class TooLate(RemoteError):
    """The run has ended or started, so this change is no longer possible."""


class RemoteServer:
    """A server at an address. Close it, or use it in a `with`."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url = url
        with connecting(url):
            self._client = Client(url, key, patience_s=0)  # a person waits: fail now rather than retry

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    # -- what there is -----------------------------------------------------------------------------

    def sessions(self, most: int) -> Body:
        """Return up to `most` sessions, in the order of their ids."""
        return self._pages("/v1/sessions", "sessions", most)

    def runs(self, session: str, most: int) -> Body:
        """Return up to `most` runs of a session: waiting, last in the queue first, then executing, then ended."""
        return self._pages(f"{_path(session)}/runs", "runs", most)

    def all_runs(self, most: int, statuses: Sequence[str] = ()) -> Body:
        """Return up to `most` runs of all sessions, newest first; with `statuses` only those."""
        return self._pages("/v1/runs", "runs", most, query={"status": ",".join(statuses)} if statuses else {})

    def history(self, session: str, most: int, *, discarded: bool = False, superseded: bool = False) -> Body:
        """Return the last `most` messages of a session, oldest first; with `discarded` and `superseded` the hidden ones
        too."""
        hidden = {"discarded": discarded, "superseded": superseded}
        query = {name: "true" for name, shown in hidden.items() if shown}
        return self._pages(f"{_path(session)}/history", "messages", most, older=True, query=query)

    def schedules(self, most: int, session: str | None = None) -> Body:
        """Return up to `most` schedules, in the order of their ids, of one session or all."""
        query = {} if session is None else {"session_id": session}
        return self._pages("/v1/schedules", "schedules", most, query=query)

    def run(self, run_id: str) -> Body:
        """Return a run. Raises `UnknownId`."""
        return self._ask("GET", f"/v1/runs/{_quoted(run_id)}")

    def session(self, session: str) -> Body:
        """Return a session. Raises `UnknownId`."""
        return self._ask("GET", _path(session))

    def tree(self, session: str) -> Body:
        """Return the branches of a session and its forks. Raises `UnknownId`."""
        return self._ask("GET", f"{_path(session)}/tree")

    # -- what is changed ---------------------------------------------------------------------------

    def cancel(self, run_id: str, *, force: bool = False) -> Body:
        """Cancel a run and return it: ended, or asked to stop. Raises `UnknownId` and `TooLate`."""
        return self._ask("POST", f"/v1/runs/{_quoted(run_id)}/cancel", {"force": force})

    def cancel_session(self, session: str, *, running: bool = False, force: bool = False) -> Body:
        """Cancel the waiting runs of a session, with `running` the executing one too; return their ids."""
        return self._ask("POST", f"{_path(session)}/cancel", {"running": running, "force": force})

    def move(self, run_id: str, *, priority: int | None = None) -> Body:
        """Move a waiting run to the place of a priority; None is the front. Raises `UnknownId` and `TooLate`."""
        body: Body = {"front": True} if priority is None else {"priority": priority}
        return self._ask("POST", f"/v1/runs/{_quoted(run_id)}/move", body)

    def edit(self, run_id: str, body: Body) -> Body:
        """Edit a waiting run, and return it. Raises `UnknownId` and `TooLate`."""
        return self._ask("PATCH", f"/v1/runs/{_quoted(run_id)}", body)

    def open_tools(self, run_id: str) -> list[Body]:
        """Return the tools of a crashed run whose outcome is unknown. Raises `UnknownId` and `TooLate`."""
        tools: list[Body] = self._ask("GET", f"/v1/runs/{_quoted(run_id)}/resolve")["tools"]
        return tools

    def resolve(self, run_id: str, tools: list[Body]) -> Body:
        """Continue a crashed run with what its tools have done; return the run that does. Raises `UnknownId` and
        `TooLate`."""
        return self._ask("POST", f"/v1/runs/{_quoted(run_id)}/resolve", {"tools": tools})

    def again(self, run_id: str, if_busy: str | None = None) -> Body:
        """Replace a run by one with the same input; return that. Raises `UnknownId` and `TooLate`."""
        body = {} if if_busy is None else {"if_busy": if_busy}
        return self._ask("POST", f"/v1/runs/{_quoted(run_id)}/again", body)

    def restore(self, run_id: str) -> Body:
        """Restore a superseded run. Raises `UnknownId` and `TooLate`."""
        return self._ask("POST", f"/v1/runs/{_quoted(run_id)}/restore")

    def fork(self, session: str, to: str | None, after: str | int | None, workspace: str) -> Body:
        """Fork a session, and return the new one. Raises `UnknownId`."""
        place = {"message": after} if isinstance(after, int) else after
        body = {name: given for name, given in (("session_id", to), ("after", place)) if given is not None}
        if workspace != "empty":  # (a server of an earlier version knows no other)
            body["workspace"] = workspace
        return self._ask("POST", f"{_path(session)}/fork", body)

    def pause(self, session: str) -> Body:
        """Pause a session, and return it. Raises `UnknownId`."""
        return self._ask("POST", f"{_path(session)}/pause")

    def resume(self, session: str) -> Body:
        """Resume a paused session, and return it. Raises `UnknownId`."""
        return self._ask("POST", f"{_path(session)}/resume")

    def set_options(self, session: str, options: Body | None) -> Body:
        """Change the default options of a session, with None remove all; return it. Raises `UnknownId`."""
        return self._ask("PATCH", _path(session), {"options": options})

    def delete_session(self, session: str) -> Body:
        """Delete a session. Raises `UnknownId`, and `TooLate` while something of it executes, waits or is locked."""
        return self._ask("DELETE", _path(session))

    def add_schedule(self, body: Body) -> Body:
        """Make a schedule, and return it."""
        return self._ask("POST", "/v1/schedules", body)

    def schedule(self, schedule: str) -> Body:
        """Return a schedule. Raises `UnknownId`."""
        return self._ask("GET", f"/v1/schedules/{_quoted(schedule)}")

    def change_schedule(self, schedule: str, body: Body) -> Body:
        """Change a schedule, and return it. Raises `UnknownId`."""
        return self._ask("PATCH", f"/v1/schedules/{_quoted(schedule)}", body)

    def run_schedule(self, schedule: str) -> Body:
        """Accept a run of a schedule now, and return it. Raises `UnknownId`."""
        return self._ask("POST", f"/v1/schedules/{_quoted(schedule)}/run")

    def delete_schedule(self, schedule: str) -> None:
        """Delete a schedule. Raises `UnknownId`."""
        self._ask("DELETE", f"/v1/schedules/{_quoted(schedule)}")

    def files(self, session: str, most: int) -> Body:
        """Return up to `most` files of a session, in the order of their ids."""
        return self._pages(f"{_path(session)}/files", "files", most)

    def webhooks(self, most: int, status: str | None = None) -> Body:
        """Return up to `most` events that wait to be sent or are dead, or those of a status."""
        return self._pages("/v1/webhooks", "webhooks", most, query={} if status is None else {"status": status})

    def resend_webhook(self, event: str) -> None:
        """Send an event again. Raises `UnknownId`."""
        self._ask("POST", f"/v1/webhooks/{_quoted(event)}/resend")

    def test_webhook(self, url: str) -> Body:
        """Send a test to a webhook, and return what became of it."""
        return self._ask("POST", "/v1/webhooks/test", {"url": url})

    def upload(self, session: str, data: bytes, name: str) -> Body:
        """Upload a file into a session, and return it."""
        path = f"{_path(session)}/files"
        made = self._tried("POST", path, lambda: self._client.upload(data, session, name=name))
        return cast(Body, to_builtins(made))

    def download(self, session: str, file_id: str) -> bytes:
        """Return the content of a file. Raises `UnknownId`."""
        path = f"{_path(session)}/files/{_quoted(file_id)}"
        return self._tried("GET", path, lambda: self._client.download(file_id, session))

    def export(self, session: str) -> bytes:
        """Return all of a session as a zip. Raises `UnknownId`."""
        return self._tried("GET", f"{_path(session)}/export", lambda: self._client.export(session))

    def delete_file(self, session: str, file_id: str) -> None:
        """Delete a file. Raises `UnknownId`."""
        self._ask("DELETE", f"{_path(session)}/files/{_quoted(file_id)}")

    def answer(self, session: str, given: dict[str, str]) -> Body:
        """Answer the open questions of a session, by their ids; return the run that continues with the answers."""
        return self._ask("POST", f"{_path(session)}/runs", {"input": requests.responses(given)})

    # -- one request -------------------------------------------------------------------------------

    def _pages(self, path: str, name: str, most: int, *, older: bool = False, query: Body | None = None) -> Body:
        """Return up to `most` entries of a paged list; `older`: each further page goes before the others."""
        entries: list[Any] = []
        damaged: list[Any] = []
        cursor: str | None = None
        while len(entries) < most:
            page_query = {**(query or {}), "limit": str(min(PAGE, most - len(entries)))}
            page = self._ask("GET", path, query=page_query if cursor is None else {**page_query, "cursor": cursor})
            if not isinstance(page.get(name), list):
                raise self._not_a_server(f"GET {path} has no {name}")
            entries = [*page[name], *entries] if older else [*entries, *page[name]]
            damaged += page.get("damaged", [])
            cursor = page.get("next_cursor")
            if cursor is None:
                break
        return {name: entries, "next_cursor": cursor, **({"damaged": damaged} if damaged else {})}

    def _ask(self, method: str, path: str, body: Body | None = None, query: Body | None = None) -> Body:
        return self._tried(method, path, lambda: self._client.ask(method, path, body, query=query))

    def _tried(self, method: str, path: str, ask: Callable[[], T]) -> T:
        try:
            return ask()
        except UnicodeEncodeError as error:
            raise _unreadable(error) from None
        except NoServer as error:
            raise unreachable(self.url, error, "--url http://HOST:PORT") from None
        except ClientError as error:
            raise self._refused(method, path, error) from None

    def _refused(self, method: str, path: str, error: ClientError) -> RemoteError:
        match error:
            case NotFound(detail=detail) if error.code and not detail.startswith("there is nothing at"):
                what = "runs" if path.startswith("/v1/runs/") else "asked" if "input request" in detail else "sessions"
                what = "files" if "/files/" in path else what
                what = "schedules" if path.startswith("/v1/schedules/") else what
                what = "webhooks" if path.startswith("/v1/webhooks/") else what
                return UnknownId(f"{detail}; {_LISTS[what]}")
            case NotFound(code=code) if code:
                return self._not_a_server(f"it has no {path}")
            case Conflict(detail=detail) if path.endswith("/fork") and error.code:
                return TooLate(f"{detail}; `strandline sessions` lists the sessions")
            case Conflict(detail=detail) if error.code and path.startswith("/v1/sessions/"):
                return TooLate(f"{detail}; `strandline runs {path.split('/')[3]}` shows its runs")
            case Conflict(detail=detail) if error.code:
                return TooLate(f"{detail}; `strandline runs {path.split('/')[3]}` shows its outcome")
            case NotNow() if error.code:
                return RemoteError(f"not now: {why(error)}. Try again in {error.retry_after_s:g} s")
            case Unauthorized() if error.code:
                return unauthorized(self.url, error)
            case Refused() if error.code:
                return RemoteError(f"the server refuses this: {why(error)}")
            case Refused():
                return self._not_a_server(f"{method} {path} says {error.status}")
            case _:
                return self._not_a_server(error.detail)

    def _not_a_server(self, reason: str) -> NotAServer:
        return NotAServer(
            f"{self.url} is not a Strandline server, or one of another version: {reason}. To use another address:"
            " --url http://HOST:PORT"
        )


def _quoted(name: str) -> str:
    """Return a name as a part of a path. Raises `RemoteError` if it is not text."""
    try:
        return quote(name, safe="")
    except UnicodeEncodeError as error:
        raise _unreadable(error) from None


def _unreadable(error: UnicodeEncodeError) -> RemoteError:
    """Return the error for an argument with undecodable bytes, which Python represents as lone surrogates."""
    return RemoteError(f"{error.object!r} is not text in the encoding of this terminal")


def _path(session: str) -> str:
    return f"/v1/sessions/{_quoted(session)}"


def display_order(runs: list[Body]) -> Iterator[Body]:
    """Yield executing runs, then waiting ones in their order, then ended ones."""
    executing = [run for run in runs if run["status"] == "running"]
    waiting = [run for run in runs if run["status"] == "queued"]
    yield from executing
    yield from sorted(waiting, key=lambda run: run.get("position") or 0)
    yield from (run for run in runs if run["status"] not in ("queued", "running"))
