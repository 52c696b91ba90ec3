"""The command itself: where settings come from, where it listens, how it ends, what it says when it cannot start."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import COMMAND, DEADLINE_S, TARGETS, environment, refused, serving, until
from ports import reserved_port


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


# -- starting, listening, ending ----------------------------------------------------------------------


def test_settings_from_flag_environment_and_file(at: Checkpoints, tmp_path: Path) -> None:
    """A flag counts before the environment, that before the file; without a journal's name it is kept in a folder."""
    (tmp_path / "strandline.toml").write_text('agent_id = "file"\nport = 1\nmax_queued = 7\nmax_queued_per_session = 9')
    port = reserved_port()
    variables = {
        "AGENT_ID": "environment",
        "PORT": str(port),
        "STRANDLINE_MAX_QUEUED_PER_SESSION": "5",
        **at.environment,
    }
    with serving(
        TARGETS / "agent.py", "--max-queued-per-session", "0",
        folder=tmp_path, variables=variables, port=None, journal=None, installed=True,
    ) as server:  # fmt: skip
        assert server.url.endswith(f":{port}")
        assert server.chat("hello")["agent_id"] == "environment"
        at.hold("one model 0")
        server.line_up("one")
        refusal = server.client.post("/chat", json={"message": "two"})
        assert (refusal.status_code, refusal.json()["detail"]) == (429, "0 runs of session default wait already")
        at.release()
        assert (tmp_path / ".strandline" / "journal.db").is_file()


def test_listening_for_everybody_has_to_be_allowed(at: Checkpoints, tmp_path: Path) -> None:
    """0.0.0.0 only with the variable; it is logged and shown, and no page gets in under a name of its own."""
    message = refused(str(TARGETS / "agent.py"), "--host", "0.0.0.0", "--port", "0", folder=tmp_path)
    assert "STRANDLINE_ALLOW_ANONYMOUS=1" in message
    variables = {"STRANDLINE_ALLOW_ANONYMOUS": "1", **at.environment}
    with serving(TARGETS / "agent.py", "--host", "0.0.0.0", folder=tmp_path, variables=variables) as server:
        assert server.health()["auth"] == "none"
        assert "0.0.0.0" in server.stderr
        assert "no key is required" in server.stderr
        assert "localhost and no other name (setting allowed_hosts)" in server.stderr
        body = {"message": "hello"}
        for host in ("localhost", "127.0.0.1:80", "192.0.2.7:8080"):
            assert server.client.post("/chat", json=body, headers={"Host": host}).status_code == 200
        rebound = server.client.post("/chat", json=body, headers={"Host": "agent:8080"})
        assert (rebound.status_code, rebound.json()["code"]) == (403, "foreign")
        assert "set STRANDLINE_ALLOWED_HOSTS=agent" in rebound.json()["detail"]
        page = {"Host": "localhost", "Origin": "http://evil.example"}
        assert server.client.post("/chat", json=body, headers=page).status_code == 403
    variables["STRANDLINE_ALLOWED_HOSTS"] = "agent"
    with serving(TARGETS / "agent.py", "--host", "0.0.0.0", folder=tmp_path, variables=variables) as server:
        assert "localhost, agent (setting allowed_hosts)" in server.stderr
        assert server.client.post("/chat", json=body, headers={"Host": "agent:8080"}).status_code == 200


def test_allowed_hosts_and_origins(at: Checkpoints, tmp_path: Path) -> None:
    """A page of a listed origin may call, also after a preflight; a listed host is answered."""
    flags = ("--allowed-hosts", "agent.example, other.example", "--cors-origins", "https://app.example")
    with serving(TARGETS / "agent.py", *flags, folder=tmp_path, variables=at.environment) as server:
        body = {"message": "hello"}
        page = {"Host": "agent.example", "Origin": "https://app.example"}
        answer = server.client.post("/chat", json=body, headers=page)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, "https://app.example")
        asking = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
        preflight = server.client.options("/chat", headers={**page, **asking})
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "https://app.example"
        assert server.client.post("/chat", json=body, headers={"Host": "other.example:80"}).status_code == 200
        assert server.client.post("/chat", json=body, headers={"Host": "third.example"}).status_code == 403
        assert server.client.post("/chat", json=body, headers={"Origin": "https://b.example"}).status_code == 403


def test_it_stops_itself_when_idle(at: Checkpoints, tmp_path: Path) -> None:
    """Not while a run executes, however long; then, after the time, with exit code 0."""
    variables = {"IDLE_TIMEOUT_MINUTES": "0.03", **at.environment}  # about two seconds
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=variables, installed=True) as server:
        at.hold("one model 0")
        (requests,) = server.line_up("one")
        until(server.stored, "it is kept")  # it executes while its commit is under way
        run_id = server.stored()[0].run_id
        assert server.run(run_id, wait_s=3)["status"] == "running"
        at.release()
        assert requests.result(DEADLINE_S).json()["response"] == "one"
        assert server.ended() == 0
        assert "idle for " in server.stderr


def test_an_idle_timeout_of_zero_is_none(at: Checkpoints, tmp_path: Path) -> None:
    variables = {"IDLE_TIMEOUT_MINUTES": "0", **at.environment}
    with serving(TARGETS / "agent.py", folder=tmp_path, variables=variables) as server:
        assert server.chat("one")["response"] == "one"
        assert server.client.get("/readyz").status_code == 200
        server.terminate()
        assert server.ended() == 0
        assert "idle for " not in server.stderr


def test_a_port_that_is_in_use(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        message = refused(str(TARGETS / "agent.py"), "--port", port, "--journal", "memory:", folder=tmp_path)
    assert f"port {port}" in message
    assert "--port" in message


# -- what it cannot do --------------------------------------------------------------------------------

FILES = {
    "fine.py": "def make_agent():\n    return None\n\ndef other():\n    return None\n",
    "nothing.py": "import os\n\ndef build():\n    return None\n",
    "missing.py": "import os\n\nimport no_such_package\n",
    "raises.py": "import os\n\nTHREE = 3\nNAN = THREE / 0\n",
    "indirect.py": "import careless\n",
    "careless.py": "def load():\n    raise RuntimeError('no configuration')\n\nload()\n",
    "exits.py": "import sys\nsys.exit(3)\n",
    "syntax.py": "import os\n\ndef make_agent(:\n    pass\n",
    "number.py": "agent = 5\n",
    "swarm.py": "from strands import Agent\nfrom strands.multiagent import Swarm\n"
    "from strandline.testing import ScriptedModel\n"
    "agent = Swarm([Agent(model=ScriptedModel(lambda messages: 'x'), name='x')])\n",
    "functions.py": "def sync(message, session):\n    return message\n\n"
    "async def short(message):\n    return message\n\n"
    "async def long(message, session, more):\n    return message\n\n"
    "async def generator(message):\n    yield message\n",
    "notes.txt": "def make_agent():\n    return None\n",
    "folder/readme": "",
    "bad.toml": "port = \n",
    "unknown.toml": "max_runing = 4\n",
}

REFUSALS: dict[str, tuple[list[str], list[str]]] = {
    # what is wrong: the arguments, and what the message must say
    "no such file": (["no/such/file.py"], ["no/such/file.py", "does not exist"]),
    "a folder": (["./folder"], ["is a folder"]),
    "no Python file": (["./notes.txt"], ["must end in .py"]),
    "no such module": (["no_such.module:name"], ["no module 'no_such.module'", "no such file", "`path/file.py`"]),
    "no module at all": ([":name"], ["names no module"]),
    "no such name": (["fine.py:factory"], ["has no `factory`", "make_agent, other", "fine.py:NAME"]),
    "no default name": (["nothing.py"], ["neither `make_agent` nor `agent`", "build", "def make_agent"]),
    "a missing import": (["missing.py"], ["missing.py, line 3", "import no_such_package", "Install it"]),
    "an error at import": (["raises.py"], ["raises.py, line 4", "NAN = THREE / 0", "ZeroDivisionError"]),
    "an error in what it imports": (["indirect.py"], ["careless.py, line 2", "no configuration"]),
    "an exit at import": (["exits.py"], ["exits.py, line 2", "SystemExit"]),
    "a syntax error": (["syntax.py"], ["syntax.py", "line 3", "def make_agent(:"]),
    "a number": (["number.py"], ["'int'", "def make_agent", "async def answer"]),
    "a swarm": (["swarm.py"], ["is one Swarm", "factory", "def make_swarm(session_id):"]),
    "a sync function": (["functions.py:sync"], ["not async", "async def answer(message, session)"]),
    "a function without a session": (["functions.py:short"], ["(message)", "async def answer(message, session)"]),
    "a generator without a session": (["functions.py:generator"], ["async def answer(message, session)"]),
    "a function of three": (["functions.py:long"], ["takes 3 parameters"]),
    "a port that is none": (["fine.py", "--port", "99999"], ["port is '99999' (--port)"]),
    "a number that is none": (["fine.py", "--max-running", "many"], ["max_running is 'many' (--max-running)"]),
    "a choice that is none": (["fine.py", "--after-crash", "hope"], ["after_crash is 'hope'", "resume"]),
    "no such settings file": (["fine.py", "--config", "no.toml"], ["no.toml cannot be read"]),
    "a broken settings file": (["fine.py", "--config", "bad.toml"], ["bad.toml cannot be read", "line 1"]),
    "an unknown setting": (["fine.py", "--config", "unknown.toml"], ["`max_runing`", "did you mean `max_running`?"]),
    "an unknown kind of journal": (
        ["fine.py", "--port", "0", "--journal", "postgres:x"],
        ["'postgres:x'", "sqlite:PATH"],
    ),
    "a journal that is none": (["fine.py", "--port", "0", "--journal", "sqlite:fine.py"], ["fine.py", "left as it is"]),
    "an address that is not here": (["fine.py", "--host", "192.0.2.1"], ["192.0.2.1"]),
    "no target": ([], ["TARGET"]),
    "an unknown flag": (["fine.py", "--prot", "1"], ["--prot"]),
}


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[dict[str, Future[str]]]":
    """What the command says to each, all asked side by side because starting Python takes most of the time."""
    folder = tmp_path_factory.mktemp("refused")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    with ThreadPoolExecutor(4) as pool:
        yield {what: pool.submit(refused, *given, folder=folder) for what, (given, _) in REFUSALS.items()}


@pytest.mark.parametrize("what", REFUSALS)
def test_what_it_cannot_serve_it_refuses_with_help(refusals: "dict[str, Future[str]]", what: str) -> None:
    """Exit code 2, no traceback, and a paragraph that says what is wrong and what to write instead."""
    response = refusals[what].result(DEADLINE_S)
    for part in REFUSALS[what][1]:
        assert part in response


# -- help -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"], ["journal", "--help"]])
def test_help_imports_nothing_that_takes_long(arguments: list[str]) -> None:
    """Help and completions come at once: no drawing, no agent framework, no server is imported for them."""
    script = (
        "import sys\nfrom strandline._cli import app\n"
        f"try:\n    app({arguments!r})\nexcept SystemExit:\n    pass\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert "Usage:" in done.stdout
    imported = set(done.stderr.split())
    assert {"typer", "msgspec"} <= imported
    assert not imported & {"rich", "pygments", "markdown_it", "strands", "uvicorn", "starlette", "uvloop", "httpx"}


@pytest.mark.parametrize("group", [[], ["journal"], ["demo"]])
def test_what_a_command_does_is_said_whole_where_commands_are_listed(group: list[str]) -> None:
    shown = subprocess.run(
        [COMMAND, *group, "--help"],
        env=environment({"COLUMNS": "80"}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    ).stdout
    assert "..." not in shown.partition("Commands:")[2]


def test_flags_name_the_values_that_a_setting_may_have() -> None:
    shown = subprocess.run(
        [COMMAND, "serve", "--help"],
        env=environment({"COLUMNS": "80"}),
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=True,
    ).stdout
    assert "--stall-action report|cancel" in shown
    assert "[2592000]" in shown, "the default as it is written, not as powers of ten"
