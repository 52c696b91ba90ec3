"""`Conversation` talks HTTP: one session of one server. It draws nothing and asks nobody.

`ask` is a stream of events that ends with an `Answer`; every other end is a `RemoteError`. A question that may have
been accepted is never sent a second time: after a broken connection its answer is looked for in the history.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final, Self

import httpx

from strandline.chat.events import (
    Answer,
    Event,
    InLine,
    Kept,
    Lost,
    NotTaken,
    Refused,
    Untold,
    Waiting,
)
from strandline.chat.turns import Message, Turn, new_since, turns_of
from strandline.remote.answers import (
    NoServer,
    NotStrandline,
    RemoteError,
    body_of,
    is_loopback,
    json_of,
    nobody,
    reaching,
    retry_after_s,
    why,
)

TICK_S: Final = 0.25
CONNECT_S: Final = 5.0
STALE_S: Final = 1.0
"""After how long without an answer from `/health` it is said that the server does not answer."""
BACK_S: Final = 60.0
"""How long a server that is gone is waited for."""
TRIES: Final = 10
TAIL: Final = 12
"""How many messages are kept to know where the history ended when a question was sent."""
MOST_NEW: Final = 500
"""How many messages are looked through for an answer."""
ENDED: Final = frozenset({"succeeded", "failed", "cancelled", "needs_input"})
OK, ACCEPTED, NOT_FOUND, TOO_MANY, UNAVAILABLE = 200, 202, 404, 429, 503


class Conversation:
    """A session of a server, over one client. Belongs to the loop that it was made in."""

    def __init__(self, url: str, session: str) -> None:
        self.url = url
        self.session = session
        self.agent_id = ""
        with reaching(url):
            self._client = httpx.AsyncClient(
                base_url=url,
                timeout=httpx.Timeout(CONNECT_S, read=None, pool=None),
                trust_env=not is_loopback(url),
            )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.aclose()

    # -- what there is -----------------------------------------------------------------------------

    async def health(self) -> dict[str, Any]:
        """Return what the server says of itself. Raises `NoServer` and `NotStrandline`."""
        try:
            response = await self._client.get("/health", timeout=CONNECT_S)
        except httpx.TransportError as error:
            raise self._nobody(error) from None
        except httpx.DecodingError as error:
            raise NotStrandline(f"what answers at {self.url} is no Strandline server: {error}") from None
        found = json_of(response)
        if response.status_code != OK or not isinstance(found, dict) or "agent_id" not in found:
            raise NotStrandline(
                f"what answers at {self.url} is no Strandline server: GET /health says {response.status_code}"
                f" {response.headers.get('content-type', '')}".rstrip()
                + ". Name the address of one: strandline chat http://HOST:PORT"
            )
        self.agent_id = str(found["agent_id"])
        return found

    async def history(self, count: int, *, tools: bool = True) -> list[Message]:
        """Return the last `count` messages of the session, 0 for all of them."""
        query = {"session_id": self.session, "count": str(count), "include_tool_messages": str(tools).lower()}
        try:
            response = await self._client.get("/history", params=query, timeout=BACK_S)
        except httpx.TransportError as error:
            raise self._nobody(error) from None
        found = json_of(response)
        if response.status_code != OK or not isinstance(found, dict):
            raise NotTaken(f"the history of {self.session} cannot be shown: {why(response)}")
        messages: list[Message] = found.get("messages", [])
        return messages

    async def turns(self, count: int) -> list[Turn]:
        """Return the last `count` turns of the session, however many messages they have."""
        asked = 8 * count
        while True:
            messages = await self.history(asked)
            found = turns_of(messages)
            if len(found) > count or len(messages) < asked:
                return found[-count:]
            asked *= 4

    # -- a question --------------------------------------------------------------------------------

    async def ask(self, text: str) -> AsyncIterator[Event]:
        """Send a question and yield what happens until its `Answer`. Raises `RemoteError`.

        Whoever stops iterating leaves the wait; a run that was accepted goes on without them.
        """
        clock = asyncio.get_running_loop().time
        begun = clock()
        tail = asyncio.ensure_future(self._tail())
        try:
            async for waiting in self._standing_until(tail, begun):
                yield waiting
            before = tail.result()
        finally:
            tail.cancel()
        for tried in range(TRIES):
            post = asyncio.ensure_future(self._client.post("/chat", json={"message": text, "session_id": self.session}))
            try:
                async for waiting in self._standing_until(post, begun):
                    yield waiting
                response = post.result()
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                raise self._nobody(error) from None
            except httpx.TransportError:
                yield Lost()
                async for event in self._look_for(text, before, begun):
                    yield event
                return
            finally:
                post.cancel()
            match response.status_code:
                case 200:
                    yield Answer(body_of(response), clock() - begun)
                    return
                case 202:
                    async for event in self._follow(str(body_of(response)["run_id"]), begun):
                        yield event
                    return
                case 429 | 503:
                    wait_s = retry_after_s(response)
                    yield Refused(why(response), wait_s, again=tried > 0)
                    await asyncio.sleep(wait_s)
                case 404:
                    raise NotStrandline(f"{self.url} has no /chat: it is no Strandline server, or lives below a path")
                case _:
                    raise NotTaken(f"the server does not take this: {why(response)}")
        raise NotTaken(f"the server did not take it in {TRIES} tries. Nothing was accepted; try again later")

    async def _standing_until(self, work: "asyncio.Future[Any]", begun: float) -> AsyncIterator[Waiting]:
        """Yield how it stands on the server, every `TICK_S` until `work` is done; never waits for the server itself."""
        clock = asyncio.get_running_loop().time
        asking: asyncio.Task[dict[str, Any]] | None = None
        asked_at = 0.0
        health: dict[str, Any] = {}
        try:
            while not (await asyncio.wait({work}, timeout=TICK_S))[0]:
                if asking is not None and asking.done():
                    health = {} if asking.exception() else asking.result()
                    asking = None
                if asking is None:
                    asking, asked_at = asyncio.create_task(self.health()), clock()
                elif clock() - asked_at > STALE_S:
                    health = {}
                yield Waiting(clock() - begun, health.get("running"), health.get("queue_depth"))
        finally:
            if asking is not None:
                asking.cancel()

    async def _follow(self, run_id: str, begun: float) -> AsyncIterator[Event]:
        """Yield what becomes of a run that the server keeps while it stops."""
        clock = asyncio.get_running_loop().time
        yield Kept(run_id)
        gone_since: float | None = None
        while True:
            get = asyncio.ensure_future(self._client.get(f"/v1/runs/{run_id}", timeout=BACK_S))
            try:
                async for waiting in self._standing_until(get, begun):
                    yield waiting
                response = get.result()
            except httpx.TransportError:
                gone_since = gone_since or clock()
                if clock() - gone_since > BACK_S:
                    raise Untold(
                        f"the server is not back after {BACK_S:g} s. It keeps the run: ask again when it is, with"
                        f" /history, or GET {self.url}/v1/runs/{run_id}"
                    ) from None
                yield Waiting(clock() - begun, None, None)
                await asyncio.sleep(TICK_S)
                continue
            finally:
                get.cancel()
            gone_since = None
            if response.status_code == NOT_FOUND:
                raise Untold(f"the server that answers now does not know run {run_id}. Does it keep another journal?")
            if response.status_code == OK:
                run = body_of(response)
                if run["status"] in ENDED:
                    yield Answer(self._as_answer(run), clock() - begun)
                    return
                yield InLine(
                    clock() - begun, run_id, str(run.get("phase")), run.get("position"), run.get("estimated_wait_s")
                )
            await asyncio.sleep(TICK_S)

    async def _look_for(self, text: str, before: list[Message] | None, begun: float) -> AsyncIterator[Event]:
        """Yield events until the answer to `text` is found in the history, or until it is sure that there is none."""
        clock = asyncio.get_running_loop().time
        end = clock() + BACK_S
        while True:
            health: dict[str, Any] = {}
            with suppress(RemoteError):
                health = await self.health()
            if health.get("ready"):
                idle = not health.get("running") and not health.get("queue_depth")
                if (turn := await self._found(text, before)) is not None:
                    yield Answer(self._as_found(turn), clock() - begun, found=True)
                    return
                if idle:
                    raise Untold(
                        "the connection broke before the answer came. The server is there, has nothing to do, and its"
                        " history has no answer to this: it was not accepted, or it failed without a trace. Look at"
                        " /history, and send it again if you want to"
                    )
                end = clock() + BACK_S
            elif clock() > end:
                raise Untold(
                    f"the connection broke before the answer came, and nobody answers at {self.url} since. If the"
                    " server had accepted it, the answer will be in /history when it is back"
                )
            yield Waiting(clock() - begun, health.get("running"), health.get("queue_depth"))
            await asyncio.sleep(TICK_S)

    async def _found(self, text: str, before: list[Message] | None) -> Turn | None:
        if before is None:
            return None
        with suppress(RemoteError):
            now = await self.history(MOST_NEW)
            for turn in turns_of(new_since(before, now)):
                if turn.question == text and turn.answer is not None:
                    return turn
        return None

    async def _tail(self) -> list[Message] | None:
        """Return how the history ends now; None if it cannot be read."""
        with suppress(NotTaken):
            return await self.history(TAIL)
        return None

    def _as_answer(self, run: dict[str, Any]) -> dict[str, Any]:
        """Return a run as `POST /chat` would have answered it."""
        answer = {
            "status": "success",
            "response": run.get("output", ""),
            "agent_id": self.agent_id,
            "session_id": run.get("session_id", self.session),
            "run_id": run["run_id"],
        }
        if run["status"] != "succeeded":
            error = run.get("error") or {"code": run["status"], "detail": f"the run was {run['status']}"}
            answer |= {"status": "error", "response": error["detail"] or error["code"], "error_code": error["code"]}
        return answer

    def _as_found(self, turn: Turn) -> dict[str, Any]:
        """Return what the history tells of a run as `POST /chat` would have answered it, without the run's id."""
        answer = {
            "status": "success",
            "response": turn.answer or "",
            "agent_id": self.agent_id,
            "session_id": self.session,
        }
        if (code := turn.ended_early) is not None:
            answer |= {"status": "error", "error_code": code}
        return answer

    def _nobody(self, error: Exception) -> NoServer:
        return nobody(self.url, error, "strandline chat http://HOST:PORT")
