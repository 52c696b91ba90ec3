"""All of the run API for a program: what `Service` has beside submitting and control, through real Strands agents."""

import asyncio
import json
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path
from textwrap import dedent
from typing import Any
from zipfile import ZipFile

import pytest
from strands import Agent

import strandline
from acceptance.receiver import receiving
from strandline.errors import CannotGoBack, Invalid, KeyReused, NotFound, NotResolvable, SessionBusy
from strandline.events import MessageAdded, RunFinished, RunQueued, SessionPaused, TextDelta
from strandline.testing import Gate, ScriptedModel, question

ME = strandline.ANONYMOUS
OTHER = strandline.Principal("somebody-else")
ADA = strandline.session_key("ada")
FAR = 4_000_000_000.0
DEADLINE_S = 30.0


@pytest.fixture(autouse=True)
def _here(own_folder: Path) -> None:
    """Journals are files of the current folder."""


def make_agent(session_id: str) -> Agent:
    return Agent(model=ScriptedModel(lambda messages: f"{len(messages)}: {question(messages)}"), callback_handler=None)


def request(text: str, **more: Any) -> strandline.Request:
    return strandline.Request(key=ADA, input=text, **more)


async def ended(ticket: strandline.Ticket) -> str:
    end = await asyncio.wait_for(ticket.outcome(), DEADLINE_S)
    assert isinstance(end, strandline.Outcome)
    assert end.status is strandline.RunStatus.SUCCEEDED, end
    return end.output


async def ask(service: strandline.Service, text: str, **more: Any) -> strandline.RunId:
    ticket = await service.submit(request(text, **more))
    await ended(ticket)
    return ticket.run_id


async def said(service: strandline.Service, who: str = "user") -> list[str]:
    return [m["content"][0]["text"] for m in await service.history(ADA) if m["role"] == who]


def test_a_run_is_made_again_and_restored() -> None:
    async def main() -> None:
        async with strandline.open_service(make_agent, journal="memory:") as service:
            await ask(service, "one")
            two = await ask(service, "two", metadata={"of": "two"})
            three = await ask(service, "three")
            ticket = await service.again(ME, two, idempotency_key="once", priority=2)
            assert await ended(ticket) == "3: two"
            repeated = await service.again(ME, two, idempotency_key="once", priority=2)
            assert (repeated.run_id, repeated.replayed) == (ticket.run_id, True)
            with pytest.raises(KeyReused):
                await service.again(ME, two, idempotency_key="once", priority=3)
            with pytest.raises(KeyReused):
                await service.again(ME, three, idempotency_key="once", priority=2)
            assert await said(service) == ["one", "two"]
            view = await service.run(ME, ticket.run_id)
            assert (view.run.metadata, view.run.priority) == ({"of": "two"}, 2)
            assert view.superseded is not None
            assert view.superseded.runs == [two, three]

            page = await service.history_page(ADA, superseded=True)
            assert page.superseded == [2, 3, 4, 5]
            assert page.runs[-1] == ticket.run_id

            restored = await service.restore(ME, three)
            assert (restored.key, restored.changed, restored.superseded.runs) == (ADA, True, [ticket.run_id])
            assert not (await service.restore(ME, three)).changed
            assert await said(service) == ["one", "two", "three"]

            for call in (service.again, service.restore, service.open_tools):
                with pytest.raises(NotFound):
                    await call(OTHER, two)
            with pytest.raises(Invalid, match="if_busy"):
                await service.again(ME, two, if_busy="interrupt")  # type: ignore[arg-type]

    asyncio.run(main())


def test_while_a_session_is_busy_again_waits_for_nothing_and_may_interrupt() -> None:
    async def main() -> None:
        gate = Gate()

        async def held(messages: Any) -> str:
            if question(messages) == "slow":
                await gate.wait()
            return question(messages)

        def make_held() -> Agent:
            return Agent(model=ScriptedModel(held), callback_handler=None)

        async with strandline.open_service(make_held, journal="memory:") as service:
            first = await ask(service, "first")
            slow = await service.submit(request("slow"))
            await asyncio.wait_for(gate.reached.wait(), DEADLINE_S)
            for going_back in (service.again(ME, first), service.restore(ME, first)):
                with pytest.raises(SessionBusy):
                    await going_back
            ticket = await service.again(ME, first, if_busy=strandline.IfBusy.INTERRUPT)
            gate.open()
            assert await ended(ticket) == "first"
            assert ticket.stopped == (slow.run_id,)
            assert await said(service) == ["first"]
            with pytest.raises(CannotGoBack):
                await service.restore(ME, (await _cancelled(service)).run_id)

    asyncio.run(main())


async def _cancelled(service: strandline.Service) -> strandline.Ticket:
    """Return a run that was cancelled while it waited, so that it has left no messages."""
    await service.pause(ADA)
    ticket = await service.submit(request("never"))
    await service.cancel(ME, ticket.run_id)
    await service.resume(ADA)
    return ticket


CRASHES = """
    import asyncio, os, signal
    import strandline
    from strands import Agent, tool
    from strandline.testing import ScriptedModel, call, in_turn

    @tool
    def pay(amount: int) -> str:
        "Pay."
        os.kill(os.getpid(), signal.SIGKILL)
        return "paid"

    def make_agent(session_id: str) -> Agent:
        return Agent(model=ScriptedModel(in_turn(call("pay", {"amount": 5}))), tools=[pay], callback_handler=None)

    async def main() -> None:
        async with strandline.open_service(make_agent, journal="sqlite:journal.db") as service:
            wanted = strandline.Request(key=strandline.session_key("ada"), input="go", metadata={"of": "go"})
            await (await service.submit(wanted)).outcome()

    asyncio.run(main())
"""


def test_a_crashed_run_is_resolved() -> None:
    """Its process dies by SIGKILL in the middle of a tool."""
    died = subprocess.run([sys.executable, "-c", dedent(CRASHES)], timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL

    def make_told(session_id: str) -> Agent:
        return Agent(model=ScriptedModel(lambda messages: str(messages[-1]["content"])), callback_handler=None)

    async def main() -> None:
        async with strandline.open_service(make_told, journal="sqlite:journal.db") as service:
            (view,) = (await service.runs(ADA)).runs
            crashed = (await service.wait(ME, view.run.run_id, DEADLINE_S)).run
            assert crashed.outcome is not None
            assert crashed.outcome.error is not None
            assert crashed.outcome.error.code is strandline.ErrorCode.CRASHED
            (tool,) = await service.open_tools(ME, crashed.run_id)
            assert (tool.name, tool.input) == ("pay", {"amount": 5})
            with pytest.raises(Invalid):
                await service.resolve(ME, crashed.run_id, [])
            wrong = strandline.CheckedTool(tool.tool_use_id, "done")  # type: ignore[arg-type]
            with pytest.raises(Invalid, match="CheckedTool"):
                await service.resolve(ME, crashed.run_id, [wrong])
            checked = strandline.CheckedTool(tool.tool_use_id, strandline.ToolOutcome.DONE, "receipt 7")
            with pytest.raises(NotFound):
                await service.resolve(OTHER, crashed.run_id, [checked])
            ticket = await service.resolve(ME, crashed.run_id, [checked], idempotency_key="once")
            assert "receipt 7" in await ended(ticket)
            repeated = await service.resolve(ME, crashed.run_id, [checked], idempotency_key="once")
            assert repeated.run_id == ticket.run_id
            assert (await service.run(ME, ticket.run_id)).run.metadata == {"of": "go"}
            with pytest.raises(NotResolvable):
                await service.resolve(ME, crashed.run_id, [checked])
            with pytest.raises(NotResolvable):
                await service.open_tools(ME, crashed.run_id)

    asyncio.run(main())


def test_a_session_is_exported_as_over_http() -> None:
    async def main() -> None:
        async with strandline.open_service(make_agent, journal="sqlite:journal.db") as service:
            file = await service.upload(ADA, b"some text", name="note.txt")
            run_id = await ask(service, "hello")
            whole = b"".join([piece async for piece in await service.export(ADA)])
            with ZipFile(BytesIO(whole)) as packed:
                assert packed.testzip() is None
                assert packed.read(f"files/{file.file_id}/note.txt") == b"some text"
                assert json.loads(packed.read("session.json"))["session_id"] == "ada"
                assert json.loads(packed.read("runs.jsonl"))["run_id"] == run_id
                history = [json.loads(line) for line in packed.read("history.jsonl").splitlines()]
                assert [each["role"] for each in history] == ["user", "assistant"]
            with pytest.raises(NotFound):
                await service.export(strandline.session_key("ada", principal="somebody-else"))

    asyncio.run(main())


def test_schedules_are_made_listed_changed_run_and_deleted() -> None:
    async def main() -> None:
        async with strandline.open_service(make_agent, journal="memory:") as service:
            wanted = strandline.ScheduleRequest(key=ADA, input="report", at=FAR, metadata={"of": "it"})
            made = await service.create_schedule(wanted)
            assert (made.next, made.at, made.cron, made.paused) == ([FAR], FAR, None, False)
            assert await service.schedule(ME, made.schedule_id) == made
            weekly = await service.create_schedule(
                strandline.ScheduleRequest(key=ADA, input="x", cron="0 9 * * MON", paused=True)
            )
            first = await service.schedules(ME, limit=1)
            rest = await service.schedules(ME, after=first.after, session_id=ADA.session_id)
            assert {each.schedule_id for each in (*first.schedules, *rest.schedules)} == {
                made.schedule_id,
                weekly.schedule_id,
            }
            assert (await service.schedules(ME, session_id=strandline.SessionId("other"))).schedules == []
            assert (await service.schedules(OTHER)).schedules == []

            changed = await service.change_schedule(
                ME, made.schedule_id, strandline.ScheduleChange(input="news", at=FAR + 5)
            )
            assert (changed.input, changed.next, changed.metadata) == ("news", [FAR + 5], {"of": "it"})
            run = await service.run_schedule(ME, made.schedule_id)
            assert (await service.wait(ME, run.run.run_id, DEADLINE_S)).run.status is strandline.RunStatus.SUCCEEDED
            assert (await service.schedule(ME, made.schedule_id)).last_run == run.run.run_id
            assert await said(service) == ["news"]

            for call in (service.schedule, service.run_schedule, service.delete_schedule):
                with pytest.raises(NotFound):
                    await call(OTHER, made.schedule_id)
            with pytest.raises(NotFound):
                await service.change_schedule(OTHER, made.schedule_id, strandline.ScheduleChange(paused=True))
            await service.delete_schedule(ME, made.schedule_id)
            with pytest.raises(NotFound):
                await service.schedule(ME, made.schedule_id)

    asyncio.run(main())


@pytest.mark.parametrize(
    "wrong",
    [{"overlap": "never"}, {"missed": 5}, {"paused": "yes"}, {"cron": 5, "at": None}, {"metadata": [1]}, {"at": "now"},
     {"priority": "1"}, {"sender": "me"}, {"timezone": None}, {"at": None}],
    ids=str,
)  # fmt: skip
def test_a_schedule_that_could_be_stored_and_not_be_read_is_refused(wrong: dict[str, Any]) -> None:
    async def main() -> None:
        async with strandline.open_service(make_agent, journal="memory:") as service:
            with pytest.raises(Invalid):
                await service.create_schedule(
                    strandline.ScheduleRequest(**{"key": ADA, "input": "x", "at": FAR, **wrong})
                )
            assert (await service.schedules(ME)).schedules == []

    asyncio.run(main())


def test_events_of_a_run_are_read_while_it_executes_and_after_its_end() -> None:
    async def main() -> None:
        async with strandline.open_service(make_agent, journal="memory:") as service:
            await ask(service, "one")
            await service.pause(ADA)
            ticket = await service.submit(request("two"))
            events = await service.events(ME, ticket.run_id)
            first = await asyncio.wait_for(anext(events), DEADLINE_S)
            assert isinstance(first.event, RunQueued)
            await service.resume(ADA)
            async with asyncio.timeout(DEADLINE_S):
                found = [first, *[each async for each in events]]
            assert isinstance(found[-1].event, RunFinished)
            assert found[-1].event.output == "3: two"
            assert "".join(each.event.text for each in found if isinstance(each.event, TextDelta)) == "3: two"
            assert found[0].number is not None

            again = [each async for each in await service.events(ME, ticket.run_id, after=found[0].number)]
            assert [each.number for each in again] == [each.number for each in found[1:] if each.number is not None]
            assert found[-1].number == 2**53 - 1, "as over HTTP: the end is known by one number in every process"
            assert [each async for each in await service.events(ME, ticket.run_id, after=found[-1].number)] == []
            with pytest.raises(NotFound):
                await service.events(OTHER, ticket.run_id)

    asyncio.run(main())


def test_to_stop_reading_events_changes_nothing_for_the_run() -> None:
    async def main() -> None:
        async with strandline.open_service(make_agent, journal="memory:") as service:
            ticket = await service.submit(request("one", on_disconnect=strandline.OnDisconnect.CANCEL))
            events = await service.events(ME, ticket.run_id)
            await asyncio.wait_for(anext(events), DEADLINE_S)
            await events.aclose()
            assert await ended(ticket) == "1: one"

    asyncio.run(main())


def test_changes_of_all_sessions_are_read_until_the_service_stops() -> None:
    async def main() -> None:
        async with strandline.open_service(make_agent, journal="memory:") as service:
            changes = await service.changes(ME)
            others = await service.changes(OTHER)
            few = await service.changes(ME, sessions=[ADA.session_id], types=["message.added", "session.paused"])
            run_id = await ask(service, "one")
            await service.submit(strandline.Request(key=strandline.session_key("bob"), input="two"))
            await service.pause(ADA)
            async with asyncio.timeout(DEADLINE_S):
                found = [await anext(few) for _ in range(3)]
            assert [type(each.event) for each in found] == [MessageAdded, MessageAdded, SessionPaused]
            assert [each.run_id for each in found] == [run_id, run_id, None]
        async with asyncio.timeout(DEADLINE_S):
            every = [each async for each in changes]
            assert [each async for each in others] == []
        assert {each.session_id for each in every} == {"ada", "bob"}

    asyncio.run(main())


def test_runs_of_all_sessions_and_why_one_waits() -> None:
    async def main() -> None:
        async with strandline.open_service(make_agent, journal="memory:") as service:
            one = await ask(service, "one")
            await service.pause(ADA)
            waiting = await service.submit(request("two"))
            bob = await service.submit(strandline.Request(key=strandline.session_key("bob"), input="three"))
            await ended(bob)
            page = await service.runs_of(ME, limit=2)
            rest = await service.runs_of(ME, cursor=page.after)
            found = [each.run.run_id for each in (*page.runs, *rest.runs)]
            assert found == [bob.run_id, waiting.run_id, one]
            queued = await service.runs_of(ME, statuses=[strandline.RunStatus.QUEUED])
            assert [each.run.run_id for each in queued.runs] == [waiting.run_id]
            assert (await service.runs_of(OTHER)).runs == []
            why = service.why(await service.session(ADA))
            assert why is not None
            assert why.code is strandline.Reason.PAUSED

    asyncio.run(main())


def test_webhooks_are_tested_listed_and_sent_again(tmp_path: Path) -> None:
    secrets = tmp_path / "secrets"
    secrets.write_text("anonymous whsec_" + "c3RyYW5kbGluZS1zZWNyZXQtb2YtdGVzdHM=\n")

    async def main() -> None:
        with receiving() as receiver:
            receiver.answers = lambda request: 500 if request.path == "/fails" else 204
            async with strandline.open_service(
                make_agent,
                journal="memory:",
                webhook_secrets=str(secrets),
                webhook_allow_private=True,
                webhook_retries=[0],
            ) as service:
                tested = await service.test_webhook(ME, f"{receiver.url}/hook")
                assert tested.received, tested.detail
                assert not (await service.test_webhook(ME, f"{receiver.url}/fails")).received
                with pytest.raises(Invalid):
                    await service.test_webhook(ME, "ftp://example.com")
                with pytest.raises(Invalid):
                    await service.test_webhook(OTHER, f"{receiver.url}/hook")
                run_id = await ask(service, "hello", webhook=strandline.Webhook(f"{receiver.url}/fails"))
                await asyncio.to_thread(receiver.until, lambda came: len(came) == 4, "the end of the run came")
                async with asyncio.timeout(DEADLINE_S):
                    while not (dead := (await service.webhooks(ME, dead=True)).deliveries):
                        await asyncio.sleep(0)
                assert [(each.run_id, each.type, each.next_at) for each in dead] == [(run_id, "run.finished", None)]
                assert (await service.webhooks(OTHER)).deliveries == []
                with pytest.raises(NotFound):
                    await service.resend(OTHER, dead[0].id)
                await service.resend(ME, dead[0].id)
                await asyncio.to_thread(receiver.until, lambda came: len(came) >= 5, "it came again")
                assert receiver.received[4].id == dead[0].id

    asyncio.run(main())


def test_without_secrets_nothing_is_sent_to_webhooks() -> None:
    async def main() -> None:
        async with strandline.open_service(make_agent, journal="memory:") as service:
            assert await service.webhooks(ME) == strandline.DeliveryPage([], None)
            tested = await service.test_webhook(ME, "https://example.com")
            assert (tested.received, "webhook_secrets" in tested.detail) == (False, True)
            with pytest.raises(NotFound):
                await service.resend(ME, "evt_1")

    asyncio.run(main())
