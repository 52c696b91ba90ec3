"""`strandline._compat`: no other module uses what a package keeps private, and each part does what it is used for.

A test that fails here after an upgrade says which part of the package has changed.
"""

import ast
import asyncio
import importlib
import inspect
import pkgutil
import socket
import threading
import tomllib
from collections.abc import AsyncIterator, Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, Final, cast

import httptools
import pytest
from strands import Agent, ToolContext, tool
from strands.session.file_session_manager import FileSessionManager
from strands.telemetry.tracer import Tracer
from strands.types.content import Messages
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

import strandline
from strandline import _compat as compat
from strandline._compat import frames, strands, uvicorn
from strandline._compat.threads import Threads
from strandline._compat.virtual_loop import Deadlock, VirtualLoop
from strandline._doctor import machine
from strandline._http.middleware.connections import Connection as BoundedConnection
from strandline.testing import Gate, ScriptedModel, call, results

ROOT: Final = Path(__file__).parents[2]
SOURCE: Final = ROOT / "src" / "strandline"
DEADLINE_S: Final = 20.0
PUBLIC: Final = {"_asdict", "_fields", "_make", "_replace", "_exit"}
"""Names that begin with an underscore so that they meet no field's; and `os._exit`."""
MADE_TO_BE_SET: Final = {"excepthook", "unraisablehook"}
PRIVATE_MODULES: Final = ("uvicorn.", "strands.telemetry.tracer")
"""Modules (with those within) that no page of their package describes."""


# -- that it is all in one place --------------------------------------------------------------------------


def sources() -> dict[Path, ast.Module]:
    return {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(SOURCE.rglob("*.py"))
        if "_compat" not in path.relative_to(SOURCE).parts
    }


def made_here(tree: ast.AST) -> set[str]:
    """Return the names that code makes: of its functions and classes, of what it assigns to, and of its slots."""
    names: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name(id="self")):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()):
                names.add(name)
            case ast.Constant(value=str(name)):
                names.add(name)
    return names


def from_elsewhere(tree: ast.AST) -> set[str]:
    """Return the names that are imported of other packages."""
    return {
        (alias.asname or alias.name).partition(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
        if not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("strandline"))
    }


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name not in PUBLIC


def private_parts(tree: ast.Module, made_anywhere: set[str]) -> Iterator[tuple[int, str]]:
    """Yield where a module uses what another package keeps private, or changes what is another package's."""
    own, elsewhere = made_here(tree), from_elsewhere(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(attr=name, value=ast.Name(id="self" | "cls") | ast.Call(func=ast.Name(id="super"))):
                if is_private(name) and name not in made_anywhere:
                    yield node.lineno, name
            case ast.Attribute(attr=name) if is_private(name) and name not in own:
                yield node.lineno, name
            case ast.Attribute(attr=name, ctx=ast.Store(), value=ast.Name(id=owner)):
                if owner in elsewhere and name not in MADE_TO_BE_SET:
                    yield node.lineno, f"{owner}.{name} ="
            case ast.Import(names=names):
                for alias in names:
                    if alias.name.startswith(PRIVATE_MODULES):
                        yield node.lineno, alias.name
            case ast.ImportFrom(module=str(module), names=names) if not module.startswith("strandline"):
                private = any(is_private(part) for part in (*module.split("."), *(each.name for each in names)))
                if private or module.startswith(PRIVATE_MODULES):
                    yield node.lineno, module


def test_no_other_module_uses_what_a_package_keeps_private() -> None:
    trees = sources()
    made_anywhere = set[str]().union(*map(made_here, trees.values()))
    found = [
        f"{path.relative_to(SOURCE)}:{line} {what}"
        for path, tree in trees.items()
        for line, what in private_parts(tree, made_anywhere)
    ]
    assert found == []
    assert len(trees) > 200


@pytest.mark.parametrize(
    "code",
    [
        "def f(agent):\n    return agent._session_manager",
        "import uvicorn.server",
        "from uvicorn.server import ServerState",
        "from strands.agent._agent_as_tool import _AgentAsTool",
        "from strands import Agent\nAgent.stream_async = None",
        "class Pool(ThreadPoolExecutor):\n    def f(self):\n        return self._work_queue",
    ],
)
def test_it_would_be_found(code: str) -> None:
    assert list(private_parts(ast.parse(code), set()))


def ours() -> Iterator[type]:
    """Yield all classes of the package but those of `compat`."""
    for module in pkgutil.walk_packages(strandline.__path__, "strandline."):
        # (a part that is run as a program does things when it is imported)
        if module.name.endswith("__main__") or module.name.startswith("strandline._compat"):
            continue
        for each in vars(importlib.import_module(module.name)).values():
            if isinstance(each, type) and each.__module__ == module.name:
                yield each


def overridden(made: type) -> set[str]:
    """Return the private methods that a class has in place of those of another package's class."""
    own = {name for name, each in vars(made).items() if inspect.isfunction(each) and each.__module__ == made.__module__}
    foreign = [base for base in made.__mro__ if base.__module__.partition(".")[0] not in ("strandline", "builtins")]
    return {name for name in filter(is_private, own) if any(name in vars(base) for base in foreign if base is not made)}


def test_no_other_class_overrides_what_a_package_keeps_private() -> None:
    found = {f"{each.__module__}.{each.__name__}": names for each in ours() if (names := overridden(each))}
    assert found == {}


def test_an_override_would_be_found() -> None:
    assert overridden(Threads) == {"_adjust_thread_count"}
    assert overridden(VirtualLoop) == {"_process_events", "_write_to_self"}


# -- which versions they were tried on ----------------------------------------------------------------------


@pytest.mark.parametrize("package", compat.TESTED_VERSIONS)
def test_pyproject_requires_the_tested_versions(package: str) -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    assert f"{package}{compat.bounds(package)}" in dependencies


@pytest.mark.parametrize("package", compat.TESTED_VERSIONS)
def test_the_version_that_these_tests_run_on_was_tried(package: str) -> None:
    assert compat.is_tested(package, metadata.version(package))


@pytest.mark.parametrize(
    ("version", "tried"),
    [
        ("1.61.9", False),
        ("1.62.0", True),
        ("1.62.3rc1", True),
        ("1.63.0", False),
        ("2.62.0", False),
        ("unknown", False),
    ],
)
def test_whether_a_version_was_tried(version: str, tried: bool) -> None:
    assert compat.is_tested("strands-agents", version) is tried


@pytest.mark.parametrize("package", compat.TESTED_VERSIONS)
def test_doctor_warns_of_an_untested_version(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "9.9.9" if name == package else real(name))
    (found,) = machine.packages()
    assert f"{package} 9.9.9 is not a supported version" in found.message
    assert found.fix == f"pip install '{package}{compat.bounds(package)}'"


# -- Strands: how an agent was made -------------------------------------------------------------------------


def agent(script: Callable[[Messages], Any] = lambda messages: "yes", **options: Any) -> Agent:
    return Agent(model=ScriptedModel(script), callback_handler=None, **options)


def test_whether_an_agent_has_a_session_manager(tmp_path: Path) -> None:
    assert not strands.has_session_manager(agent())
    assert strands.has_session_manager(agent(session_manager=FileSessionManager("x", storage_dir=str(tmp_path))))


def test_whether_an_agent_is_checkpointing() -> None:
    assert not strands.is_checkpointing(agent())
    assert strands.is_checkpointing(agent(checkpointing=True))


def test_whether_an_agent_has_background_tasks() -> None:
    assert not strands.has_background_tasks(agent())
    assert strands.has_background_tasks(agent(background_tasks=True))


def test_agents_that_are_tools_are_found_each_once() -> None:
    inner = agent(name="inner")
    middle = agent(name="middle", tools=[inner.as_tool()])
    outer = agent(name="outer", tools=[middle.as_tool(), inner.as_tool(name="again")])
    assert [each.name for each in strands.with_sub_agents(outer)] == ["outer", "middle", "inner"]


def test_every_object_that_an_agent_consists_of_is_known() -> None:
    """One that is new may be changed by runs, and would then be shared by all sessions of one Agent."""
    made = agent()
    parts = list(strands.changed_by_runs(made))
    assert parts[0] is made
    assert [type(each).__name__ for each in parts[1:]] == [
        "SlidingWindowConversationManager",
        "HookRegistry",
        "JSONSerializableDict",
        "ToolRegistry",
        "_InterruptState",
        "MiddlewareRegistry",
        "_PluginRegistry",
        "ModelRetryStrategy",
    ]
    objects = {name for name, part in vars(made).items() if hasattr(part, "__dict__")}
    assert objects - set(strands._PARTS) == {
        "_cancel_signal",  # (cleared before each run)
        "_concurrency",  # (a lock, free between runs)
        "_intervention_registry",
        "_sandbox",
        "callback_handler",
        "event_loop_metrics",  # (new for each run)
        "model",
        "tool_caller",
        "tool_executor",
        "tracer",
    }


def test_a_part_that_is_gone_does_not_pass_for_one_that_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    made = agent()
    monkeypatch.delattr(made, "_interrupt_state")
    with pytest.raises(AttributeError, match="_interrupt_state"):
        list(strands.changed_by_runs(made))


# -- Strands: its conversation --------------------------------------------------------------------------------


def test_messages_are_appended_for_the_session_manager_too(tmp_path: Path) -> None:
    message = {"role": "user", "content": [{"text": "kept"}]}
    made = agent(session_manager=FileSessionManager("x", storage_dir=str(tmp_path)))
    asyncio.run(strands.append_messages(made, [message]))
    assert made.messages[-1] == message
    again = agent(session_manager=FileSessionManager("x", storage_dir=str(tmp_path)))
    assert again.messages[-1]["content"] == message["content"]


def test_fields_that_are_loaded_leave_all_others_as_they_are() -> None:
    made = agent(messages=[{"role": "user", "content": [{"text": "one"}]}], system_prompt="be kind")
    strands.load(made, {"state": {"seen": 1}})
    assert made.state.get() == {"seen": 1}
    assert len(made.messages) == 1
    assert made.system_prompt == "be kind"


# -- Strands: a round that is open -----------------------------------------------------------------------------


class Asking:
    """Agents with a tool that asks a person and one that works, and how often that has worked."""

    def __init__(self) -> None:
        self.worked = 0

    def agent(self, messages: Messages | None = None) -> Agent:
        @tool(context=True)
        def approve(tool_context: ToolContext) -> str:
            """Ask."""
            return f"approved: {tool_context.interrupt('approve', reason='sure?')}"

        @tool
        def work() -> str:
            """Work."""
            self.worked += 1
            return "worked"

        def script(messages: Messages) -> Any:
            reported = results(messages)
            return ", ".join(sorted(reported.values())) if reported else [call("approve"), call("work")]

        return agent(script, tools=[approve, work], messages=messages)


def text_of(result: Any) -> str:
    return str(result).strip()


def test_an_interrupted_round_moves_to_another_agent_with_the_results_of_its_other_tools() -> None:
    async def main() -> None:
        desk = Asking()
        first = desk.agent()
        assert not strands.is_interrupted(first)
        assert strands.interrupted_round(first) is None
        requests = (await first.invoke_async("go")).interrupts
        assert strands.is_interrupted(first)
        (ended,) = strands.completed_results(first)
        assert ended["content"] == [{"text": "worked"}]
        fields = strands.interrupted_round(first)
        assert fields is not None
        second = desk.agent(first.messages)
        strands.restore_interrupt(second, fields)
        assert strands.is_interrupted(second)
        answers: Any = [{"interruptResponse": {"interruptId": each.id, "response": "yes"}} for each in requests or ()]
        assert text_of(await second.invoke_async(answers)) == "approved: yes, worked"
        assert desk.worked == 1

    asyncio.run(main())


def test_tools_whose_results_are_taken_away_start_again() -> None:
    async def main() -> None:
        desk = Asking()
        first = desk.agent()
        requests = (await first.invoke_async("go")).interrupts
        fields = strands.interrupted_round(first)
        assert fields is not None
        second = desk.agent(first.messages)
        strands.restore_interrupt(second, fields, [])
        assert strands.completed_results(second) == []
        answers: Any = [{"interruptResponse": {"interruptId": each.id, "response": "yes"}} for each in requests or ()]
        assert text_of(await second.invoke_async(answers)) == "approved: yes, worked"
        assert desk.worked == 2

    asyncio.run(main())


def test_an_agent_that_goes_on_starts_only_the_tools_that_have_no_result() -> None:
    async def main() -> None:
        starts: list[str] = []

        @tool
        def work(name: str) -> str:
            """Work."""
            starts.append(name)
            return f"{name} again"

        asks = [call("work", {"name": "a"}), call("work", {"name": "b"})]
        uses = [{"toolUse": {"toolUseId": n, "name": "work", "input": {"name": n}}} for n in ("a", "b")]
        messages = [{"role": "user", "content": [{"text": "go"}]}, {"role": "assistant", "content": uses}]
        done = {"toolUseId": "a", "status": "success", "content": [{"text": "a before"}]}
        made = agent(
            lambda said: ", ".join(sorted(reported.values())) if (reported := results(said)) else asks,
            tools=[work],
            messages=cast(Messages, messages),
        )
        strands.resume_round(made, made.messages[-1], [done])
        assert text_of(await made.invoke_async([])) == "a before, b again"
        assert starts == ["b"]

    asyncio.run(main())


def test_an_agent_that_is_to_stop_asking_takes_messages_again() -> None:
    async def main() -> None:
        made = Asking().agent()
        await made.invoke_async("go")
        strands.clear_interrupt(made)
        assert not strands.is_interrupted(made)
        made.messages.clear()
        assert (await made.invoke_async("go")).stop_reason == "interrupt"

    asyncio.run(main())


def test_what_strands_says_of_a_cancel() -> None:
    async def main() -> None:
        async def cancelled_at(made: Agent, key: str) -> Messages:
            async for event in made.stream_async("go"):
                if key in event:
                    made.cancel()
            return made.messages

        @tool
        def work() -> str:
            """Work."""
            return "worked"

        said = await cancelled_at(agent(), "start_event_loop")
        assert said[-1]["content"] == [{"text": strands.CANCELLED_BY_USER}]
        said = await cancelled_at(agent(lambda messages: [call("work")], tools=[work]), "message")
        reported = [block["toolResult"]["content"] for block in said[-1]["content"] if "toolResult" in block]
        assert reported == [[{"text": strands.TOOL_CANCELLED}]], said

    asyncio.run(main())


# -- Strands: where all agents pass, and what it writes into spans -----------------------------------------------


@pytest.fixture
def as_before() -> Iterator[None]:
    before = Agent.stream_async
    yield
    Agent.stream_async = before  # type: ignore[method-assign]


def test_every_way_to_ask_an_agent_passes_the_one_place(as_before: None) -> None:
    passed: list[str] = []

    def stream(agent: Agent, *args: Any, **options: Any) -> AsyncIterator[Any]:
        passed.append(agent.name)
        return strands.original_stream(agent, *args, **options)

    before = agent(name="was there before")
    strands.patch_stream(stream)
    strands.patch_stream(stream)
    assert inspect.signature(Agent.stream_async) == inspect.signature(strands.original_stream)
    before("called")
    asyncio.run(before.invoke_async("awaited"))
    inner = agent(name="inner")
    outer = agent(
        lambda messages: "end" if results(messages) else [call("inner", {"input": "x"})],
        name="outer",
        tools=[inner.as_tool()],
    )
    outer("called")
    assert passed == ["was there before", "was there before", "outer", "inner"]


@pytest.mark.parametrize("name", strands._SPAN_WRITERS)
def test_what_writes_a_conversation_into_a_span_takes_the_span_first(name: str) -> None:
    """That they write nothing unless it is recorded is shown in `test_strands_spans.py`."""
    assert list(inspect.signature(getattr(Tracer, name)).parameters)[:2] == ["self", "span"]


# -- uvicorn: a connection -------------------------------------------------------------------------------------


class Wire:
    """What a connection writes to."""

    def __init__(self) -> None:
        self.written = b""
        self.closed = False

    def write(self, data: bytes) -> None:
        self.written += data

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def get_extra_info(self, name: str, default: object = None) -> object:
        return default

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


HEAD: Final = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"
POST: Final = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n"


class Talk:
    """A connection, and an app that answers when it is let."""

    def __init__(self) -> None:
        self.wire = Wire()
        self.may_answer = Gate()
        self.reads = asyncio.Event()
        self.heard: list[str] = []
        config = uvicorn.Config(self.app, lifespan="off", log_config=None, access_log=False, interface="asgi3")
        config.load()
        self.connection = uvicorn.Connection(config, uvicorn.ServerState(), {})
        self.connection.connection_made(cast(asyncio.Transport, self.wire))

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["method"] == "POST":
            self.reads.set()
            self.heard.append((await receive())["type"])
        await self.may_answer.wait()
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def answered(self) -> None:
        self.may_answer.open()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*self.connection.tasks)


def talk(main: Callable[[Talk], Any]) -> None:
    async def life() -> None:
        await main(Talk())

    asyncio.run(life())


def test_a_connection_has_to_answer_once_a_whole_request_is_here() -> None:
    async def main(talk: Talk) -> None:
        connection = talk.connection
        assert connection.latest_request() is None
        assert not connection.has_unanswered_request()
        connection.data_received(POST + b"\r\n")
        assert isinstance(connection.latest_request(), uvicorn.ServedRequest)
        assert not connection.has_unanswered_request()
        connection.data_received(b"abc")
        assert connection.has_unanswered_request()
        assert not connection.is_kept_alive()
        await talk.answered()
        assert not connection.has_unanswered_request()
        latest = connection.latest_request()
        assert latest is not None
        assert latest.response_started
        assert latest.response_complete
        assert connection.is_kept_alive()
        connection.stop_keeping_alive()
        assert not connection.is_kept_alive()

    talk(main)


def test_requests_behind_the_one_in_work_are_counted() -> None:
    async def main(talk: Talk) -> None:
        talk.connection.data_received(HEAD)
        assert talk.connection.behind() == 0
        talk.connection.data_received(HEAD * 2)
        assert talk.connection.behind() == 2
        assert talk.connection.has_unanswered_request()

    talk(main)


def test_a_connection_that_is_to_answer_last_is_closed_with_its_answer() -> None:
    async def main(talk: Talk) -> None:
        talk.connection.close_after_response()
        talk.connection.data_received(HEAD)
        talk.connection.close_after_response()
        await talk.answered()
        assert b"connection: close" in talk.wire.written
        assert talk.wire.closed

    talk(main)


def test_who_reads_a_body_hears_that_nobody_is_there() -> None:
    async def main(talk: Talk) -> None:
        talk.connection.data_received(POST + b"\r\n")
        latest = talk.connection.latest_request()
        assert latest is not None
        assert not uvicorn.is_body_paused(talk.connection, latest)
        await talk.reads.wait()  # (it waits for the body from here on)
        uvicorn.mark_disconnected(latest)
        await talk.answered()
        assert talk.heard == ["http.disconnect"]

    talk(main)


def test_a_client_that_waits_for_100_continue_is_not_late() -> None:
    async def main(talk: Talk) -> None:
        talk.connection.data_received(POST + b"expect: 100-continue\r\n\r\n")
        latest = talk.connection.latest_request()
        assert latest is not None
        assert uvicorn.is_body_paused(talk.connection, latest)

    talk(main)


def test_a_body_that_nobody_reads_is_not_waited_for() -> None:
    async def main(talk: Talk) -> None:
        size = 1 << 20
        talk.connection.data_received(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % size)
        talk.connection.data_received(b"x" * (size - 1))
        latest = talk.connection.latest_request()
        assert latest is not None
        assert uvicorn.is_body_paused(talk.connection, latest)

    talk(main)


def test_a_head_that_is_forgotten_is_kept_nowhere() -> None:
    async def main(talk: Talk) -> None:
        talk.connection.data_received(HEAD[:20])
        connection: Any = talk.connection
        assert connection.url
        assert isinstance(connection.parser, httptools.HttpRequestParser)
        connection.discard_head()
        assert [connection.headers, connection.url, connection.parser] == [[], b"", None]

    talk(main)


def test_the_first_line_of_an_answer() -> None:
    assert uvicorn.status_line(503) == b"HTTP/1.1 503 Service Unavailable\r\n"


def test_our_connections_get_the_callbacks_of_uvicorns_own() -> None:
    """A method that was renamed there would be called by nobody here."""
    ours = {"took_too_little", "took_too_long", "cut", "take_probes_only", "refuse", "on_chunk_header", "cut_answer"}
    heard = {name for name, each in vars(BoundedConnection).items() if callable(each) and not name.startswith("_")}
    assert {name for name in heard - ours if not callable(getattr(HttpToolsProtocol, name, None))} == set()
    assert len(heard - ours) > 10


def test_names_of_ours_hide_none_of_uvicorns() -> None:
    made: Any = HttpToolsProtocol
    named = {name for name in vars(uvicorn.Connection) if not name.startswith("__")}
    assert not named & (set(dir(made)) | set(RequestResponseCycle.__init__.__code__.co_varnames))


# -- uvicorn: a server -----------------------------------------------------------------------------------------


def test_a_server_leaves_signals_and_lets_go_of_its_socket_and_connections() -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def main() -> None:
        import signal

        before = signal.getsignal(signal.SIGTERM)
        listener = socket.create_server(("127.0.0.1", 0))
        kept = listener.dup()  # (as a process that holds it for a successor has it)
        config = uvicorn.Config(app, lifespan="off", log_config=None, http="httptools", timeout_keep_alive=3600)
        server = uvicorn.Server(config)
        server.stop_accepting()  # (before it has begun)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        async with asyncio.timeout(DEADLINE_S):
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(HEAD)
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
            assert signal.getsignal(signal.SIGTERM) is before
            address = kept.getsockname()
            server.stop_accepting()
            assert not any(each.is_serving() for each in server.servers)
            server.shutdown_connections()
            assert (await reader.read()).endswith(b"\r\n\r\n")
            writer.close()
            late = socket.create_connection(address)  # (waits in the socket, and nobody has taken it)
            kept.setblocking(False)
            taken, _ = await asyncio.get_running_loop().sock_accept(kept)
            for each in (late, taken, kept):
                each.close()
            server.should_exit = True
            await serving

    asyncio.run(main())


# -- CPython -----------------------------------------------------------------------------------------------------


def test_a_pool_knows_the_threads_that_it_has_started_and_what_waits_for_one() -> None:
    """`test_threads.py` shows that it continues when none can be started."""
    pool = Threads(1, "test")
    assert pool.started == []
    begun, end = threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        end.wait(DEADLINE_S)

    first = pool.submit(work)
    assert begun.wait(DEADLINE_S)
    second = pool.submit(threading.current_thread)
    assert pool.backlog == 1
    end.set()
    first.result(DEADLINE_S)
    assert [second.result(DEADLINE_S)] == pool.started
    pool.shutdown()


def test_the_pool_of_python_starts_its_threads_where_ours_does(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(Threads, "_adjust_thread_count", lambda pool: made.append("a thread"))
    pool = Threads(1, "test")
    pool.submit(print)
    assert made == ["a thread"]


def test_the_frames_of_threads_are_returned() -> None:
    here = frames.frames_of_threads()[threading.get_ident()]
    names = []
    frame: Any = here
    while frame is not None:
        names.append(frame.f_code.co_name)
        frame = frame.f_back
    assert "test_the_frames_of_threads_are_returned" in names


def test_a_coroutine_is_followed_to_what_it_waits_in_through_generators_too() -> None:
    async def main() -> None:
        never = asyncio.get_running_loop().create_future()

        async def inner() -> None:
            await never

        async def steps() -> AsyncIterator[int]:
            await inner()
            yield 1

        async def outer() -> None:
            async for _ in steps():
                pass

        task = asyncio.create_task(outer())
        await asyncio.sleep(0)
        names, awaited = [], cast("object | None", task.get_coro())
        while awaited is not None:
            if (frame := frames.frame_of(awaited)) is not None:
                names.append(frame.f_code.co_name)
            awaited = frames.awaited_in(awaited)
        assert names == ["outer", "steps", "inner"]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())


def test_the_time_of_a_virtual_loop_jumps_to_the_next_timer_and_stands_still_meanwhile() -> None:
    async def main() -> list[float]:
        loop = asyncio.get_running_loop()
        seen = [loop.time()]
        for wait_s in (0, 3600, 86400 * 3):  # (a real loop looks up once a day at least)
            await asyncio.sleep(wait_s)
            seen.append(loop.time())
        return seen

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        assert runner.run(main()) == pytest.approx([0, 0, 3600, 3600 + 86400 * 3])


def test_a_virtual_loop_says_that_nothing_can_happen_any_more() -> None:
    async def waits() -> None:
        await asyncio.get_running_loop().create_future()

    loop = VirtualLoop()
    task = loop.create_task(waits())
    with pytest.raises(Deadlock):
        loop.run_until_complete(task)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(task)
    loop.close()


def test_a_timer_that_is_due_goes_off_at_its_time_and_not_before() -> None:
    loop = VirtualLoop()
    seen: list[float] = []
    times = [0.1 + 0.2, 10.0, 10.0 + 5e-10]  # (the last two are one to a clock that is not exact)
    for at in times:
        loop.call_at(at, lambda: seen.append(loop.time()))
    loop.run_until_complete(asyncio.sleep(11))
    assert all(when >= at for when, at in zip(seen, times, strict=True))
    loop.close()
