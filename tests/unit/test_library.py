"""The library in one process: what is started, refused, and left at the end."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import Future
from pathlib import Path
from typing import Any, get_type_hints

import httpx
import pytest
import uvloop
from fastapi import FastAPI
from starlette.testclient import TestClient
from strands import Agent

import strandline
from strandline._access.keyring import new_key
from strandline._engine.events import type_of
from strandline._library import FAILED, AppKeywords, ServerKeywords, ServiceKeywords
from strandline._older_names import NEWER_SETTINGS
from strandline._settings import AppSettings, ServiceSettings, Settings
from strandline.errors import Invalid, JournalLocked, KeyReused, NotStarted, SettingsError, SetupError, TargetError
from strandline.testing import Gate, ScriptedModel, question

LOOPS = pytest.mark.parametrize("run", [asyncio.run, uvloop.run])
Runs = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(autouse=True)
def _here(own_folder: Path) -> None:
    """Journals and targets are files of the current folder."""


def make_agent(session_id: str) -> Agent:
    return Agent(model=ScriptedModel(lambda messages: f"{session_id}: {question(messages)}"), callback_handler=None)


def request(text: str, session: str = "ada") -> strandline.Request:
    return strandline.Request(key=strandline.session_key(session), input=text)


async def ask(service: strandline.Service, text: str, session: str = "ada") -> str:
    end = await asyncio.wait_for((await service.submit(request(text, session))).outcome(), 20)
    assert isinstance(end, strandline.Outcome)
    assert end.status is strandline.RunStatus.SUCCEEDED, end
    return end.output


def finish(future: "Future[None]", call: Callable[[], None]) -> None:
    try:
        call()
        future.set_result(None)
    except BaseException as error:
        future.set_exception(error)


# -- the service ---------------------------------------------------------------------------------------


@LOOPS
def test_a_service_keeps_what_was_said_on_any_loop(run: Runs) -> None:
    async def first() -> None:
        async with strandline.open_service(make_agent, journal="sqlite:journal.db") as service:
            assert await asyncio.gather(*(ask(service, each) for each in "abc")) == [f"ada: {each}" for each in "abc"]
            assert service.health().ready

    async def second() -> None:
        async with strandline.open_service(make_agent, journal="sqlite:journal.db") as service:
            said = await service.history(strandline.session_key("ada"))
            assert [block["text"] for each in said for block in each["content"] if each["role"] == "user"] == [*"abc"]
            assert await service.delete(strandline.session_key("ada"))
            assert await service.history(strandline.session_key("ada")) == []

    run(first())
    run(second())


def test_at_the_end_executing_runs_finish_and_waiting_ones_continue_later() -> None:
    async def main() -> None:
        gate = Gate()

        async def held(messages: Any) -> str:
            await gate.wait()
            return question(messages)

        def make_held() -> Agent:
            return Agent(model=ScriptedModel(held), callback_handler=None)

        async def open_when_it_stops(waiting: strandline.Ticket) -> None:
            assert await waiting.outcome() is strandline.Later.LATER
            gate.open()

        async with strandline.open_service(make_held, journal="sqlite:journal.db") as service:
            first, second = [await service.submit(request(each)) for each in ("one", "two")]
            assert [first.position, second.position] == [0, 1]
            opening = asyncio.create_task(open_when_it_stops(second))
        await opening
        ended = await first.outcome()
        assert isinstance(ended, strandline.Outcome)
        assert ended.output == "one"
        async with strandline.open_service(make_held, journal="sqlite:journal.db") as service:
            view = await service.wait(strandline.ANONYMOUS, second.run_id, 20)
            assert view.run.outcome is not None
            assert view.run.outcome.output == "two"

    asyncio.run(main())


def test_a_function_sees_the_metadata_and_the_attempt_of_its_run() -> None:
    async def function(message: str, session: strandline.Session) -> str:
        return f"{message} {session.context.metadata} {session.context.attempt}"

    async def main() -> None:
        async with strandline.open_service(function, journal="memory:") as service:
            wanted = strandline.Request(key=strandline.session_key(), input="x", metadata={"from": "a test"})
            end = await asyncio.wait_for((await service.submit(wanted)).outcome(), 20)
            assert isinstance(end, strandline.Outcome)
            assert end.output == "x {'from': 'a test'} 1"

    asyncio.run(main())


def test_no_thread_outlives_it() -> None:
    async def main() -> None:
        async with strandline.open_service(make_agent, journal="sqlite:journal.db") as service:
            await ask(service, "hello")

    before = set(threading.enumerate())
    asyncio.run(main())
    assert not [each for each in threading.enumerate() if each not in before and each.is_alive()]


def test_an_agent_object_and_a_function_and_a_name_can_be_given(tmp_path: Path) -> None:
    async def function(message: str, session: Any) -> str:
        return f"{session.id} said {message}"

    (tmp_path / "agent.py").write_text("async def answer(message, session):\n    return message.upper()\n")

    async def main() -> None:
        for target, answer in [
            (make_agent("one for all"), "one for all: hello"),
            (function, "ada said hello"),
            ("agent.py:answer", "HELLO"),
            (tmp_path / "agent.py:answer", "HELLO"),
        ]:
            async with strandline.open_service(target, journal="memory:") as service:
                assert await ask(service, "hello") == answer

    asyncio.run(main())


def test_a_program_that_fails_inside_still_drains() -> None:
    async def main() -> None:
        with pytest.raises(ZeroDivisionError):
            async with strandline.open_service(make_agent, journal="sqlite:journal.db"):
                raise ZeroDivisionError
        async with strandline.open_service(make_agent, journal="sqlite:journal.db", lock_wait=0):
            with pytest.raises(JournalLocked):
                async with strandline.open_service(make_agent, journal="sqlite:journal.db", lock_wait=0):
                    pytest.fail("two own one journal")

    asyncio.run(main())


# -- the app -------------------------------------------------------------------------------------------


def test_an_app_may_be_started_again_and_again_but_not_twice_at_once() -> None:
    async def main() -> None:
        agent = strandline.asgi(make_agent, journal="sqlite:journal.db")
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app=agent), base_url="http://testserver")
        async with client:
            for number in (1, 2):
                async with agent.lifespan():
                    assert (await client.post("/chat", json={"message": "hello"})).status_code == 200
                    assert len(await agent.service.history(strandline.session_key())) == 2 * number
                    with pytest.raises(SetupError, match="runs already"):
                        async with agent.lifespan():
                            pytest.fail("it lives twice")
                assert (await client.get("/health")).json()["detail"].startswith("this agent was stopped")

    asyncio.run(main())


def test_a_test_client_sees_that_an_app_cannot_start() -> None:
    first = strandline.asgi(make_agent, journal="sqlite:journal.db")
    second = strandline.asgi(make_agent, journal="sqlite:journal.db", lock_wait=0)

    def enter() -> None:  # (in a thread that is left behind if it waits for ever)
        with TestClient(first), pytest.raises(JournalLocked, match="one worker"), TestClient(second):
            pytest.fail("two own one journal")

    entering: Future[None] = Future()
    threading.Thread(target=lambda: finish(entering, enter), daemon=True).start()
    entering.result(20)


def test_the_service_of_an_app_that_was_not_started_says_so() -> None:
    with pytest.raises(NotStarted, match="lifespan"):
        _ = strandline.asgi(make_agent).service


@pytest.mark.parametrize(
    ("path", "code_of"),
    [
        ("/v1/chat/completions", lambda said: said["error"]["code"]),
        ("/invocations", lambda said: said["error"]),
        ("/agui", lambda said: said["code"]),
        ("/mcp", lambda said: said["error"]["data"]["code"]),
        ("/a2a", lambda said: said["error"]["data"][0]["metadata"]["code"]),
        ("/chat", lambda said: said["code"]),
    ],
)
def test_an_app_that_was_not_started_or_has_ended_says_so_in_the_form_of_each_route(
    path: str, code_of: Callable[[Any], str]
) -> None:
    agent = strandline.asgi(make_agent, journal="memory:")

    async def said() -> str:
        around = FastAPI()
        around.mount("/below", agent)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(around), base_url="http://test") as client:
            response = await client.post(f"/below{path}", json={})
        assert response.status_code == 503
        return code_of(response.json())

    async def main() -> None:
        assert await said() == "not_started"
        async with agent.lifespan():
            pass
        assert await said() == "not_started"

    asyncio.run(main())


def test_the_scope_of_the_app_around_it_is_left_as_it_is() -> None:
    async def main() -> None:
        agent = strandline.asgi(make_agent, journal="memory:")
        async with agent.lifespan():
            sent: list[Any] = []
            scope: dict[str, Any] = {"type": "http", "path": "/health", "method": "GET", "headers": [], "app": "outer"}

            async def send(message: Any) -> None:
                sent.append(message)

            await agent(scope, asyncio.Event().wait, send)  # type: ignore[arg-type]
            assert sent[0]["status"] == 200
            assert scope == {"type": "http", "path": "/health", "method": "GET", "headers": [], "app": "outer"}

    asyncio.run(main())


def test_nothing_is_touched_before_the_start(tmp_path: Path) -> None:
    before = threading.active_count()
    strandline.asgi(make_agent)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == before


# -- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"max_runing": 3}, "`max_runing` is not a setting; did you mean `max_running`?"),
        ({"max_running": 0}, r"max_running is 0 \(given to strandline.asgi\); it must be a whole number >= 1"),
        ({"stall_action": "explode"}, "it must be report or cancel"),
        ({"journal": "x.db"}, "it must be `sqlite:PATH` or `postgresql:"),
        ({"port": 80}, "strandline.asgi has no use for `port`, which is a setting of the command and of"),
        ({"config": "none.toml"}, "none.toml cannot be read"),
    ],
)
def test_a_wrong_setting_is_refused_where_it_is_given(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        strandline.asgi(make_agent, **settings)


def test_a_variable_that_is_nearly_a_setting_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("STRANDLINE_TIMEOOT", "5")
    strandline.asgi(make_agent)
    assert [each.getMessage() for each in caplog.records] == [
        "the variable STRANDLINE_TIMEOOT is not a setting; did you mean `STRANDLINE_TIMEOUT`?"
    ]


@pytest.mark.parametrize("journal", ["memory:", "sqlite:journal.db"])
def test_what_could_be_kept_and_never_be_run_is_refused_and_stops_nobody(journal: str) -> None:
    key: Any = strandline.session_key("ada")
    name: Any = "ada"
    mine: Any = "mine"

    async def main() -> None:
        async with strandline.open_service(make_agent, journal=journal, drain_grace=0) as service:
            wrong: Any
            for wrong in (None, b"hello", ["hello"], {"text": "hello"}):
                with pytest.raises(Invalid, match="it must be text, or a list of content blocks"):
                    await service.submit(strandline.Request(key=key, input=wrong))
            for key_of_it in ("\ud800", 5):
                with pytest.raises(Invalid, match=r"idempotency_key is .* whole characters"):
                    strandline.Request(key=key, input="x", idempotency_key=key_of_it)  # type: ignore[arg-type]
            with pytest.raises(Invalid, match="its parts must be text of whole characters"):
                strandline.Request(key=strandline.session_key("ada", principal="\ud800"), input="x")
            with pytest.raises(Invalid, match="metadata is 'mine'"):
                await service.submit(strandline.Request(key=key, input="hello", metadata=mine))
            for request in (
                lambda: service.submit(strandline.Request(key=name, input="hello")),
                lambda: service.runs(name),
                lambda: service.session(name),
                lambda: service.sessions(None, after=name),
                lambda: service.history(name),
                lambda: service.cancel_session(name),
                lambda: service.pause(name),
                lambda: service.resume(name),
                lambda: service.delete(name),
            ):
                with pytest.raises(Invalid, match="the key of the session is 'ada'; make one with"):
                    await request()
            assert await ask(service, "hello") == "ada: hello"

    asyncio.run(main())


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("if_busy", "reject", "if_busy is 'reject'; it must be a strandline.IfBusy"),
        ("on_question", "dismiss", "on_question is 'dismiss'; it must be a strandline.OnQuestion, or None"),
        ("on_disconnect", "cancel", "on_disconnect is 'cancel'; it must be a strandline.OnDisconnect, or None"),
        ("priority", 1.5, "priority must be 1 to 5"),
        ("priority", "1", "priority must be 1 to 5"),
        ("timeout_s", "3", "timeout_s is '3'; it must be a number of seconds, or None"),
        ("queue_timeout_s", "3", "queue_timeout_s is '3'; it must be a number of seconds, or None"),
        ("answers", ["yes"], r"answers is \['yes'\]; it must be a dict, or None"),
        ("fingerprint", "all", "fingerprint is 'all'; it must be bytes"),
    ],
)
def test_an_option_of_another_type_is_refused_and_names_itself(field: str, value: object, said: str) -> None:
    options: dict[str, Any] = {"idempotency_key": "k", field: value}

    async def main() -> None:
        async with strandline.open_service(make_agent, journal="memory:") as service:
            with pytest.raises(Invalid, match=said):
                await service.submit(strandline.Request(key=strandline.session_key("ada"), input="x", **options))
            with pytest.raises(strandline.StrandlineError):
                await service.session(strandline.session_key("ada"))  # (nothing of it was accepted)

    asyncio.run(main())


def test_an_idempotency_key_stands_for_one_request_also_without_a_fingerprint() -> None:
    async def main() -> None:
        async with strandline.open_service(make_agent, journal="memory:") as service:

            async def send(**options: Any) -> strandline.Ticket:
                wanted = {"input": "pay", "metadata": {"order": 1, "to": "ada"}, **options}
                key = strandline.session_key("ada")
                return await service.submit(strandline.Request(key=key, idempotency_key="k", **wanted))

            first = await send()
            await first.outcome()
            again = await send(metadata={"to": "ada", "order": 1})
            assert again.run_id == first.run_id
            assert again.replayed
            other: dict[str, Any]
            for other in (
                {"input": "pay twice"},
                {"input": [{"text": "pay"}]},
                {"metadata": {}},
                {"timeout_s": 5.0},
                {"queue_timeout_s": 5.0},
                {"priority": 1},
                {"if_busy": strandline.IfBusy.INTERRUPT},
                {"on_question": strandline.OnQuestion.DISMISS},
                {"on_disconnect": strandline.OnDisconnect.CANCEL},
            ):
                with pytest.raises(KeyReused):
                    await send(**other)

    asyncio.run(main())


def test_a_service_is_used_on_the_loop_that_opened_it_alone() -> None:
    said = r"belongs to the event loop that opened it.*run_coroutine_threadsafe"

    def elsewhere(call: Callable[[], Coroutine[Any, Any, object]]) -> None:
        with pytest.raises(SetupError, match=said):
            asyncio.run(call())

    async def main() -> None:
        app = strandline.asgi(make_agent, journal="memory:")
        async with strandline.open_service(make_agent, journal="sqlite:journal.db") as service, app.lifespan():
            ada, anonymous, run = strandline.session_key("ada"), strandline.ANONYMOUS, strandline.RunId("run")
            ticket = await service.submit(request("one"))
            calls: list[Callable[[], Coroutine[Any, Any, object]]] = [
                ticket.outcome,
                lambda: service.submit(request("two")),
                lambda: service.run(anonymous, run),
                lambda: service.wait(anonymous, run, 1),
                lambda: service.cancel(anonymous, run),
                lambda: service.move(anonymous, run, None),
                lambda: service.runs(ada),
                lambda: service.session(ada),
                lambda: service.sessions(None),
                lambda: service.history(ada),
                lambda: service.cancel_session(ada),
                lambda: service.pause(ada),
                lambda: service.resume(ada),
                lambda: service.delete(ada),
                lambda: app.service.submit(request("three")),
            ]
            for call in calls:
                await asyncio.to_thread(elsewhere, call)
            loop = asyncio.get_running_loop()
            sent = lambda: asyncio.run_coroutine_threadsafe(ask(app.service, "four"), loop).result(20)  # noqa: E731
            assert await asyncio.to_thread(sent) == "ada: four"
            assert (await asyncio.to_thread(service.health)).ready
            await ticket.outcome()
            assert len(await service.history(ada)) == 2

    asyncio.run(main())


def test_a_service_without_http_has_no_use_for_settings_of_http() -> None:
    async def main() -> None:
        with pytest.raises(SettingsError, match=r"setting of strandline\.asgi and strandline.serve"):
            async with strandline.open_service(make_agent, cors_origins=["x"]):  # type: ignore[call-arg]
                pytest.fail("it started")

    asyncio.run(main())


def test_what_cannot_be_served_is_refused_by_its_name() -> None:
    with pytest.raises(TargetError, match=r"settings:Settings is a class"):
        strandline.asgi(Settings)
    with pytest.raises(TargetError, match=r"nowhere\.py does not exist"):
        strandline.asgi("nowhere.py")


def test_with_keys_and_self_managed_history_an_app_serves_no_factory_without_principal() -> None:
    keys = [new_key("ada")[1].line()]
    Path("kept.py").write_text("def make_agent(session_id): ...")
    for target in (make_agent, "kept.py"):
        strandline.asgi(target, history="session_manager")
        with pytest.raises(TargetError, match="does not take `principal`"):
            strandline.asgi(target, history="session_manager", api_keys=keys)


def test_variables_and_the_file_of_settings_count_unless_something_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "strandline.toml").write_text("max_queued_per_session = 0\ntimeout = 7\n")
    monkeypatch.setenv("STRANDLINE_TIMEOUT", "8")

    async def longest(**settings: Any) -> str:
        async with strandline.open_service(make_agent, journal="memory:", **settings) as service:
            with pytest.raises(strandline.StrandlineError) as refused:
                await service.submit(strandline.Request(key=strandline.session_key(), input="", timeout_s=100))
            return str(refused.value)

    assert "at most 8 seconds" in asyncio.run(longest())
    assert "at most 9 seconds" in asyncio.run(longest(timeout=9))


def test_serve_says_where_it_cannot_be_called() -> None:
    raised: list[BaseException] = []

    def elsewhere() -> None:
        try:
            strandline.serve(make_agent)
        except SetupError as error:
            raised.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(20)
    assert "main thread" in str(raised[0])

    async def inside() -> None:
        with pytest.raises(SetupError, match="open_service"):
            strandline.serve(make_agent)

    asyncio.run(inside())


def test_serve_prints_what_is_wrong_and_returns_the_code_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert strandline.serve(Settings, journal="memory:") == FAILED
    assert capsys.readouterr().err.startswith("strandline: strandline._settings:Settings is a class")


# -- what is exported ----------------------------------------------------------------------------------


def test_every_setting_can_be_given_by_its_name_with_a_type() -> None:
    for keywords, settings in (
        (ServiceKeywords, ServiceSettings),
        (AppKeywords, AppSettings),
        (ServerKeywords, Settings),
    ):
        assert set(get_type_hints(keywords)) == {*settings.__struct_encode_fields__, *NEWER_SETTINGS}, keywords


def test_every_name_of_the_package_is_there() -> None:
    assert {name: getattr(strandline, name) for name in strandline.__all__}
    assert set(strandline.__all__) <= set(dir(strandline))
    with pytest.raises(AttributeError, match="asgy"):
        _ = strandline.asgy  # type: ignore[attr-defined]


# -- what is kept of events ------------------------------------------------------------------------------


async def _chatty(message: str, session: object) -> AsyncIterator[str]:
    for number in range(100):
        yield f"{message}{number:099}"


async def _read_again(**settings: Any) -> list[list[str]]:
    """Return the types of what can be read of two runs of 100 pieces when both have ended, the gap's as it is."""
    async with strandline.open_service(_chatty, journal="memory:", **settings) as service:
        tickets = [await service.submit(request("x", name)) for name in ("first", "second")]
        for ticket in tickets:
            await asyncio.wait_for(ticket.outcome(), 20)
        ids = [ticket.run_id for ticket in tickets]
        del tickets, ticket  # (a reader holds on to what is read)
        gc.collect()
        streams = [await service._engine.stream(strandline.ANONYMOUS, run_id) for run_id in ids]
        return [[type_of(each.event) async for each in stream.subscribe()] for stream in streams]


def test_the_bounds_of_what_can_be_read_again_are_settings() -> None:
    async def play() -> None:
        whole = await _read_again()
        assert [len(each) for each in whole] == [104, 104]
        assert whole[0][-1] == "run.finished"
        for few in (await _read_again(stream_buffer=10), await _read_again(stream_buffer_bytes=30_000)):
            for each in few:
                assert each[0] == "stream.gap"
                assert each[-1] == "run.finished"
                assert len(each) < 20
        for none in (await _read_again(stream_retention=0), await _read_again(stream_memory=0)):
            assert none == [["stream.gap", "run.finished"]] * 2
        last = await _read_again(stream_memory=80_000)
        assert sorted(map(len, last)) == [2, 104]

    asyncio.run(play())
