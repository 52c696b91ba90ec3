"""`Conversation`: one session of one server, over HTTP through the client. It draws nothing and reads no input.

Every failure is a `RemoteError`, whose message is a paragraph for people.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any, ClassVar, Final, Self

from strandline._chat.turns import Message, Turn, turns_of
from strandline._model import IfBusy, OnQuestion
from strandline._remote.errors import NotAServer, RemoteError, connecting, unauthorized, unreachable, why
from strandline.client._async_client import AsyncClient
from strandline.client._errors import ClientError, NoServer, NotFound, NotNow, NotStrandline, Refused, Unauthorized
from strandline.client._events import Event
from strandline.client._requests import RunOptions

PATIENCE_S: Final = 60.0
"""How long to wait for a server that is gone or refuses for now."""
COMMAND: Final = "strandline chat http://HOST:PORT"


class ChatError(RemoteError):
    """A message gets no answer; the error says why and what to do."""

    code: ClassVar[str] = "chat"


class Conversation:
    """A session of a server, bound to the loop that created it; `on_pause` is called before each wait of the client.

    `on_question` says what a message does while the session waits for an answer; None: the server's setting. `if_busy`
    says what it does to what waits and executes.
    """

    def __init__(
        self,
        url: str,
        session: str,
        on_pause: Callable[[ClientError, float], None],
        key: str | None = None,
        on_question: OnQuestion | None = None,
        if_busy: IfBusy | None = None,
    ) -> None:
        self.url = url
        self.session = session
        self._options = RunOptions() if on_question is None else RunOptions(on_question=on_question)
        if if_busy is not None:
            self._options["if_busy"] = if_busy
        self.agent_id = ""
        with connecting(url):
            self._client = AsyncClient(url, key, patience_s=PATIENCE_S, on_pause=on_pause)
            self._at_once = AsyncClient(url, key, patience_s=0)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        await self._at_once.close()

    # -- what there is -----------------------------------------------------------------------------

    async def health(self) -> dict[str, Any]:
        """Return the server's `/health`. Raises `RemoteError`."""
        with self._translated_errors():
            try:
                try:
                    found = await self._at_once.ask("GET", "/health")
                except NotNow:  # the server is starting
                    found = await self._client.ask("GET", "/health")
            except NotNow:
                raise
            except (Refused, NotStrandline) as error:
                raise self._not_a_server(f"GET /health says {error.status}") from None
        if found.keys() == {"status"}:
            raise NotAServer(
                f"the server at {self.url} does not accept this host name; add it to its setting allowed_hosts"
            )
        if "agent_id" not in found:
            raise self._not_a_server("its /health is a different one")
        self.agent_id = str(found["agent_id"])
        return found

    async def turns(self, count: int) -> list[Turn]:
        """Return the last `count` turns of the session, however many messages they have."""
        limit = 8 * count
        while True:
            with self._translated_errors():
                messages: list[Message] = [dict(each) for each in await self._at_once.history(self.session, limit)]
            found = turns_of(messages)
            if len(found) > count or len(messages) < limit:
                return found[-count:]
            limit *= 4

    # -- a question --------------------------------------------------------------------------------

    async def ask(self, text: str) -> AsyncIterator[Event]:
        """Send a message and yield the events of its run up to its end. Raises `RemoteError`.

        To stop iterating is to stop waiting; an accepted run continues.
        """
        with self._translated_errors():
            async with aclosing(self._client.run(text, self.session, **self._options)) as events:
                async for event in events:
                    yield event

    async def answer(self, run_id: str, responses: Mapping[str, Any]) -> AsyncIterator[Event]:
        """Answer a run's input requests, and yield the events of the run that continues with the answers."""
        with self._translated_errors():
            run = await self._client.answer(run_id, responses)
            async with aclosing(self._client.events(run.run_id)) as events:
                async for event in events:
                    yield event

    async def cancel(self, run_id: str) -> None:
        """Cancel a run. Raises `RemoteError`, even if it had ended."""
        with self._translated_errors():
            await self._client.cancel(run_id)

    # -- what goes wrong ---------------------------------------------------------------------------

    @contextmanager
    def _translated_errors(self) -> Iterator[None]:
        try:
            yield
        except NoServer as error:
            raise unreachable(self.url, error, COMMAND) from None
        except NotNow as error:
            raise ChatError(
                f"the server refuses it for now: {why(error)}. Nothing was accepted; try again later"
            ) from None
        except NotFound as error:
            if error.code == "not_found" and error.detail.startswith("there is no run"):
                raise ChatError(f"the server now says: {error.detail}. Does it use another journal?") from None
            raise self._not_a_server(why(error)) from None
        except Unauthorized as error:
            raise unauthorized(self.url, error) from None
        except Refused as error:
            raise ChatError(f"the server refuses this: {why(error)}") from None
        except NotStrandline as error:
            raise self._not_a_server(error.detail) from None

    def _not_a_server(self, reason: str) -> NotAServer:
        return NotAServer(
            f"{self.url} is not a Strandline server, or one of another version: {reason}. To use another address:"
            f" {COMMAND}"
        )
