"""`docs/library.md`: its apps, its test and its types."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.mounted import MountedServer, mounted
from acceptance.server import DEADLINE_S, Server, environment
from docs.pages import ROOT, block, files, type_checked, write_files

PAGE = "library.md"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(PAGE, tmp_path)


@pytest.fixture
def shop(folder: Path) -> Iterator[MountedServer]:
    _, app = block(PAGE, "sh", "uvicorn").split()
    with mounted(app, folder=folder) as server:
        yield server


def test_the_two_curls_get_what_the_page_says(shop: MountedServer) -> None:
    commands = block(PAGE, "sh", "curl").replace("http://127.0.0.1:8000", shop.url).splitlines()
    for command, line in zip(commands, block(PAGE, "json", "success").splitlines(), strict=True):
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
        assert {**json.loads(done.stdout), "run_id": "run_..."} == {"run_id": "run_...", **json.loads(line)}


@pytest.mark.parametrize(("module", "place"), [("own_lifespan", "/agent"), ("own_route", "/agent"), ("alone", "")])
def test_each_app_starts_and_its_agent_answers(module: str, place: str, folder: Path) -> None:
    with mounted(f"{module}:app", folder=folder, mounted_at=place) as server:
        assert server.chat("hello", "ada")["response"] == "ada asked: hello"
        if module == "own_route":
            answer = server.client.get(f"{server.url}/orders/17/about").json()
            assert answer == {"answer": "order-17 asked: how far is it?"}
            assert len(server.history("order-17")) == 2


class Script(Server):
    def command(self) -> list[str]:
        return [sys.executable, *self._target]


def test_the_script_serves(folder: Path) -> None:
    file = folder / "serve_it.py"
    file.write_text(file.read_text().replace("port=8000", "port=0"))
    server = Script(file, folder=folder)
    try:
        server.start()
        assert server.chat("hello", "ada")["response"] == "ada asked: hello"
        server.terminate()
        assert server.ended() == 0
    finally:
        server.close()


OTHERS = ("-p", "no:schemathesis", "-p", "no:langsmith_plugin")
"""Plugins that are installed here for other tests, and take seconds to be imported."""


@pytest.mark.parametrize("file", ["test_shop.py", "test_agent.py"])
def test_the_test_passes(file: str, folder: Path) -> None:
    # A folder of its own: pytest deletes what earlier runs left in the shared one, which takes long where that is big.
    place = f"--basetemp={folder / 'of-its-tests'}"
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *OTHERS, place, file],
        cwd=folder, env=environment({}), capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


WRONG = {
    "strandline.asgi(make_agent, max_runing=3)": 'Unexpected keyword argument "max_runing"',
    "strandline.asgi(make_agent, max_running='3')": 'incompatible type "str"; expected "int"',
    "strandline.asgi(make_agent, port=3)": 'Unexpected keyword argument "port"',
    "strandline.serve(make_agent, stall_action='explode')": "expected \"Literal['report', 'cancel']\"",
}


USES = """
import logging
from typing import Unpack, assert_type

import strandline
from agent import make_agent
from strandline import errors, events, testing
from strandline.client import Run, RunOptions
from strandline.providers import load_model
from strandline.testing import probe


def app_of(**settings: Unpack[strandline.AppKeywords]) -> strandline.AgentApp:
    return strandline.asgi(make_agent, **settings)


async def use(service: strandline.Service, ada: strandline.SessionKey) -> None:
    me = strandline.Principal("me")
    ticket = await service.submit(strandline.Request(key=ada, input="x", if_busy=strandline.IfBusy.REJECT))
    assert_type(ticket, strandline.Ticket)
    run_id: strandline.RunId = ticket.run_id
    assert_type(await ticket.outcome(), strandline.Outcome | strandline.Later)
    view = await service.run(me, run_id)
    assert_type(view, strandline.RunView)
    assert_type(view.run, strandline.RunSummary)
    assert_type(view.why, strandline.Why | None)
    assert_type(await service.wait(me, run_id, 1), strandline.RunView)
    assert_type(await service.cancel(me, run_id, force=True), strandline.RunView)
    assert_type(await service.move(me, run_id, None), strandline.RunView)
    assert_type(await service.edit(me, run_id, strandline.RunEdit(input="y")), strandline.RunView)
    page = await service.runs(ada)
    assert_type(page, strandline.RunPage)
    assert_type(await service.runs(ada, cursor=page.after), strandline.RunPage)
    session = await service.session(ada)
    assert_type(session, strandline.SessionView)
    assert_type(session.key.session_id, strandline.SessionId)
    assert_type(session.input_requests, list[strandline.InputRequest])
    assert_type(await service.sessions(me), strandline.SessionPage)
    assert_type(await service.history(ada), list[strandline.Message])
    assert_type(await service.cancel_session(ada, running=True), strandline.CancelledRuns)
    assert_type(await service.pause(ada), strandline.SessionView)
    assert_type(await service.resume(ada), strandline.SessionView)
    assert_type(await service.again(me, run_id), strandline.Ticket)
    assert_type(await service.restore(me, run_id), strandline.RestoredView)
    (tool,) = await service.open_tools(me, run_id)
    checked = strandline.CheckedTool(tool.tool_use_id, strandline.ToolOutcome.DONE)
    assert_type(await service.resolve(me, run_id, [checked]), strandline.Ticket)
    async for each in await service.events(me, run_id):
        assert_type(each, events.Numbered)
    async for piece in await service.export(ada):
        assert_type(piece, bytes)
    made = await service.create_schedule(strandline.ScheduleRequest(key=ada, input="x", every_s=60))
    assert_type(made, strandline.ScheduleView)
    assert_type(await service.schedules(me), strandline.ScheduleViews)
    assert_type(await service.run_schedule(me, made.schedule_id), strandline.RunView)
    assert_type(await service.webhooks(me), strandline.DeliveryPage)
    assert_type(await service.delete(ada), bool)
    assert_type(service.health(), strandline.Health)
    assert_type(service.health().workers, list[strandline.WorkerLoad])
    if view.why is not None:
        assert_type(view.why.code, strandline.Reason)
    if (end := view.run.outcome) is not None and end.error is not None:
        assert_type(end.error, strandline.RunError)
        assert_type(end.error.code, strandline.ErrorCode)


async def function(message: str, session: strandline.Session) -> str:
    assert_type(session.context, strandline.RunContext)
    return f"{message} {session.id} {load_model('scripted')}"


def of_the_client(client: strandline.Client, options: RunOptions) -> Run:
    return client.chat("x", **options)


def of_tests(gate: testing.Gate, error: errors.QueueFull) -> testing.Script:
    logging.StreamHandler().setFormatter(strandline.JsonFormatter(details=True))
    ledger = testing.Ledger(ending=testing.Failed(strandline.ErrorCode.TIMEOUT))
    faults: list[str] = testing.check_truthful([], ledger)
    return lambda messages: [testing.pause(gate), testing.say(f"{faults} {error.position} {probe.make_agent('x')}")]
"""


def test_mypy_accepts_every_file_of_the_page_and_of_the_example_and_no_wrong_setting(folder: Path) -> None:
    example = [file.name for file in (ROOT / "examples/fastapi").glob("*.py")]
    for name in example:
        shutil.copy(ROOT / "examples/fastapi" / name, folder)
    (folder / "wrong.py").write_text("\n".join(["import strandline", "from agent import make_agent", *WRONG, ""]))
    (folder / "uses.py").write_text(USES)
    done = type_checked(*files(PAGE), *example, "uses.py", "wrong.py", folder=folder)
    errors = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert len(errors) == len(WRONG), done.stdout
    for number, (error, expected) in enumerate(zip(errors, WRONG.values(), strict=True), 3):
        assert error.startswith(f"wrong.py:{number}:")
        assert expected in error
