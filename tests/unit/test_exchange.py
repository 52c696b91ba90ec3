"""The exchange, with a dialect of a few lines: whatever speaks through it gets keys, waits, streams and endings."""

import asyncio
import json
from collections.abc import Mapping
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from engine_support import Played, echo, key, prompt_of, serving, until_idle
from strandline._agents.port import Attempt
from strandline._engine.events import Numbered, RunFinished, RunQueued, TextDelta
from strandline._engine.service import Service
from strandline._engine.streams import LAST, Later
from strandline._http.caller import CALLER, EVERYBODY, Caller
from strandline._http.dialects.runs import SessionRuns
from strandline._http.exchange.exchange import Accepted, Dialect, Exchange, Frames
from strandline._http.exchange.run_request import UNTIL_IT_ENDS, Responses, RunOptions, RunRequest
from strandline._http.exchange.run_request import Response as Answered
from strandline._http.routes.runs import Runs
from strandline._journal.memory import MemoryJournal
from strandline._journal.port import Query, RunQuery
from strandline._model import OnDisconnect, Outcome, Principal, RunStatus
from strandline._settings import AppSettings
from strandline.errors import Invalid, JournalUnavailable, NotFound
from strandline.testing._gate import Gate
from strandline.testing._virtual import VirtualClock, run_virtual


class Plain(Dialect):
    """A body of text is the question, the answer is text; events are their texts, between brackets."""

    def __init__(self, **submitted: Any) -> None:
        self.submitted = submitted
        self.noted: list[str] = []

    async def parse(self, request: Request) -> RunRequest:
        sent = b'"%b"' % await request.body()
        submitted: dict[str, Any] = {"options": RunOptions(), **self.submitted}
        return RunRequest(key=key(), input=sent.decode()[1:-1], body=sent, **submitted)

    def accepted(self, run: Accepted) -> None:
        self.noted.append(run.ticket.run_id)

    async def answer(self, run: Accepted, end: Outcome | Later) -> Response:
        if isinstance(end, Later):
            return Response("later", 202, {"Location": run.location})
        return Response(f"{end.status} {end.output}", headers=run.replayed)

    def events(self, run: Accepted) -> tuple[Frames, Mapping[str, str]]:
        return Texts(), run.replayed


class Texts:
    def opening(self) -> bytes:
        return b"["

    def of(self, received: Numbered) -> bytes:
        match received.event:
            case TextDelta(text):
                return b"%d %b;" % (received.number or 0, text.encode())
            case RunQueued():
                return b"%d waits;" % (received.number or 0)
            case RunFinished(output=output):
                return b"end %b;" % output.encode()
        return b""

    def closing(self) -> bytes:
        return b"]"


class Client:
    """One request, and whether its client is still there."""

    def __init__(self, text: str, **headers: str) -> None:
        self._text = text.encode()
        self._came = False
        self.left = asyncio.Event()
        named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        self.scope: dict[str, Any] = {
            "type": "http",
            "method": "POST",
            "path": "/",
            "headers": named,
            "root_path": "/below",
            CALLER: EVERYBODY,
        }

    async def receive(self) -> Any:
        if not self._came:
            self._came = True
            return {"type": "http.request", "body": self._text, "more_body": False}
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def ask(self, exchange: Exchange, dialect: Dialect) -> Response:
        return await exchange.handle(dialect, Request(self.scope, self.receive))


async def body_of(response: Response) -> str:
    """Return all that a response sends, of a stream too."""
    sent: list[bytes] = []

    async def send(message: Any) -> None:
        sent.append(message.get("body", b""))

    async def stays() -> Any:
        await asyncio.Event().wait()

    await response({"type": "http", "method": "POST"}, stays, send)
    return b"".join(sent).decode()


def test_a_dialect_reads_and_writes_and_the_rest_is_done_for_it() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            dialect = Plain()
            answer = await Client("hi").ask(Exchange(service), dialect)
            assert (answer.status_code, await body_of(answer)) == (200, "succeeded echo hi")
            assert len(dialect.noted) == 1

    run_virtual(main)


def test_a_request_that_is_sent_again_under_its_key_is_one_run_in_every_dialect() -> None:
    target = Played(echo)

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, target) as service:
            exchange, dialect = Exchange(service), Plain()
            first, second = [await Client("hi", idempotency_key="k").ask(exchange, dialect) for _ in range(2)]
            assert "idempotency-replayed" not in first.headers
            assert second.headers["idempotency-replayed"] == "true"
            assert first.body == second.body
            assert len(set(dialect.noted)) == 1
            assert len((await service.runs(key())).runs) == 1

    run_virtual(main)


class Slow(MemoryJournal):
    """Takes a moment for each answer."""

    async def read(self, query: Query[Any]) -> Any:
        await asyncio.sleep(0.1)
        return await super().read(query)


@pytest.mark.parametrize("leaves", [False, True])
def test_reading_another_callers_run_does_not_count_as_its_client(leaves: bool) -> None:
    """It neither keeps a run from its end whose own client was lost, nor ends one when it leaves."""
    gate = Gate()

    async def held(attempt: Attempt) -> str:
        await gate.wait()
        return prompt_of(attempt)

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(held), Slow(clock)) as service:
            exchange = Exchange(service)
            client, dialect = Client("hi"), Plain(options=RunOptions(on_disconnect=OnDisconnect.CANCEL), wait_s=None)
            if not leaves:
                dialect.submitted["wait_s"] = UNTIL_IT_ENDS
            asking = asyncio.create_task(client.ask(exchange, dialect))
            await gate.reached.wait()
            client.left.set()
            await asyncio.wait([asking])
            assert isinstance(asking.exception(), ClientDisconnect) is not leaves

            other = Client("", prefer="wait=60")
            other.scope |= {"path_params": {"run_id": dialect.noted[0]}, CALLER: Caller(Principal("bob"))}
            if leaves:
                other.left.set()
            with pytest.raises((NotFound, ClientDisconnect)):
                await Runs(service, exchange, AppSettings()).read(Request(other.scope, other.receive))
            await asyncio.sleep(10)
            (view,) = (await service.runs(key())).runs
            assert view.run.status is (RunStatus.RUNNING if leaves else RunStatus.CANCELLED)
            gate.open()
            await until_idle(service)

    run_virtual(main)


@pytest.mark.parametrize("wanted", [None, OnDisconnect.CANCEL])
def test_a_client_that_is_lost_ends_its_run_only_if_it_wants_that(wanted: OnDisconnect | None) -> None:
    gate = Gate()

    async def held(attempt: Attempt) -> str:
        await gate.wait()
        return prompt_of(attempt)

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(held)) as service:
            client, dialect = Client("hi"), Plain(options=RunOptions(on_disconnect=wanted))
            asking = asyncio.create_task(client.ask(Exchange(service), dialect))
            await gate.reached.wait()
            client.left.set()
            with pytest.raises(ClientDisconnect):
                await asking
            assert service.health().lost_clients == 1
            await asyncio.sleep(10)
            gate.open()
            await until_idle(service)
            (view,) = (await service.runs(key())).runs
            assert view.run.status is (RunStatus.SUCCEEDED if wanted is None else RunStatus.CANCELLED)

    run_virtual(main)


@pytest.mark.parametrize(("wait_s", "status"), [(None, 202), (0, 202), (5, 202), (15, 200), (UNTIL_IT_ENDS, 200)])
def test_an_answer_waits_as_long_as_its_client_wants(wait_s: float | None, status: int) -> None:
    async def slow(attempt: Attempt) -> str:
        await asyncio.sleep(10)
        return prompt_of(attempt)

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow)) as service:
            dialect, began = Plain(wait_s=wait_s), clock.monotonic()
            answer = await Client("hi").ask(Exchange(service), dialect)
            assert answer.status_code == status
            assert clock.monotonic() - began == pytest.approx(min(wait_s or 0, 10), abs=0.5)
            if status == 202:
                assert answer.headers["location"] == f"/below/v1/runs/{dialect.noted[0]}"
            await until_idle(service)

    run_virtual(main)


def test_a_stopping_server_answers_waiting_clients_that_their_runs_continue() -> None:
    gate = Gate()

    async def held(attempt: Attempt) -> str:
        await gate.wait()
        return prompt_of(attempt)

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(held), drain_grace_s=0.0) as service:
            exchange = Exchange(service)
            first = asyncio.create_task(Client("one").ask(exchange, Plain()))
            await gate.reached.wait()
            waits = asyncio.create_task(Client("two").ask(exchange, Plain()))
            follows = await Client("three").ask(exchange, Plain(as_events=True))
            await service.drain()
            assert [(await each).status_code for each in (first, waits)] == [202, 202]
            assert await body_of(follows) == "[1 waits;]"

    run_virtual(main)


def test_a_stream_goes_on_where_its_client_was() -> None:
    async def says(attempt: Attempt) -> str:
        for text in "abc":
            attempt.add_text(text)
        return "abc"

    async def submitted(service: Service, text: str, after: int) -> str:
        dialect = Plain(as_events=True, after=after)
        return await body_of(await Client(text, idempotency_key=text).ask(Exchange(service), dialect))

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(says)) as service:
            whole = await submitted(service, "x", 0)
            assert whole.startswith("[")
            assert whole.endswith("c;end abc;]")
            after = int(whole[1:].split(" a;")[0])
            assert await submitted(service, "x", after) == "[" + whole.partition(" a;")[2]
            read = await Client("x", idempotency_key="x").ask(Exchange(service), Plain(as_events=True, after=2**53 - 1))
            assert (read.status_code, read.headers["idempotency-replayed"]) == (204, "true")

    run_virtual(main)


def test_the_stream_of_a_new_run_begins_with_its_first_event_whatever_id_its_client_sends() -> None:
    gate = Gate()

    async def held(attempt: Attempt) -> str:
        await gate.wait()
        return prompt_of(attempt)

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(held)) as service:
            exchange = Exchange(service)
            await Client("one").ask(exchange, Plain(wait_s=None))
            await gate.reached.wait()
            waits = await Client("two").ask(exchange, Plain(as_events=True, after=1))
            gate.open()
            assert await body_of(waits) == "[1 waits;end two;]"

    run_virtual(main)


def test_a_client_with_the_end_of_another_run_gets_all_events_of_a_resumed_one() -> None:
    """It lost its connection before the first event of this one, and sends the last id that it has had."""
    gate = Gate()

    async def held(attempt: Attempt) -> str:
        attempt.add_text(prompt_of(attempt))
        await gate.wait()
        return prompt_of(attempt)

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(held)) as service:
            exchange = Exchange(service)
            again = Client("hi", idempotency_key="k"), Client("hi", idempotency_key="k")
            await again[0].ask(exchange, Plain(wait_s=None))
            await gate.reached.wait()
            comes_back = await again[1].ask(exchange, Plain(as_events=True, after=LAST))
            gate.open()
            assert await body_of(comes_back) == "[3 hi;end hi;]"

    run_virtual(main)


def test_two_answers_to_one_question_are_refused_before_anything_is_accepted() -> None:
    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(echo)) as service:
            twice = RunRequest(
                key=key(), input=Responses([Answered("i", 1), Answered("i", 2)]), options=RunOptions(), body=b"{}"
            )
            with pytest.raises(Invalid, match="once"):
                twice.for_service(None)
            assert (await service.runs(key())).runs == []

    run_virtual(main)


class Unreadable(MemoryJournal):
    """Shows no run."""

    async def read(self, query: Query[Any]) -> Any:
        if isinstance(query, RunQuery):
            raise JournalUnavailable("disk I/O error")
        return await super().read(query)


@pytest.mark.parametrize(("prefer", "status"), [("", 202), ("wait=0", 202), ("wait=9", 200)])
def test_a_run_that_was_accepted_is_answered_as_accepted_though_it_cannot_be_read(prefer: str, status: int) -> None:
    """Any other status would have its client send it again, without a key as another run."""

    async def slow(attempt: Attempt) -> str:
        await asyncio.sleep(5)
        return f"did {prompt_of(attempt)}"

    async def main(clock: VirtualClock) -> None:
        async with serving(clock, Played(slow), Unreadable(clock)) as service:
            exchange, dialect = Exchange(service), SessionRuns(service, AppSettings())
            accepted = []
            for text in ("one", "two"):
                client = Client(
                    f'{{"input": "{text}", "metadata": {{"of": "mine"}}}}',
                    content_type="application/json",
                    prefer=prefer,
                )
                client.scope.update({"path_params": {"session_id": "s"}, CALLER: EVERYBODY})
                accepted.append(await client.ask(exchange, dialect))
            shown = [json.loads(bytes(each.body)) for each in accepted]
            assert [each.status_code for each in accepted] == [status] * 2
            assert [each.headers["location"] for each in accepted] == [
                f"/below/v1/runs/{each['run_id']}" for each in shown
            ]
            assert [each["metadata"] for each in shown] == [{"of": "mine"}] * 2
            if status == 200:
                assert [(each["status"], each["output"]) for each in shown] == [
                    ("succeeded", "did one"),
                    ("succeeded", "did two"),
                ]
            else:
                assert [(each["status"], each["position"]) for each in shown] == [("running", None), ("queued", 1)]
            await until_idle(service)

    run_virtual(main)
