"""Whatever is done wrong in a terminal: one clear paragraph with the way out, an exit code, no traceback of ours."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from acceptance.server import COMMAND, DEADLINE_S, TARGETS, environment, ran, serving, until
from ports import reserved_port

FILES = {
    "agent.py": "def make_agent(session_id):\n    return None\n",
    "syntax.py": "import os\n\ndef make_agent(:\n    pass\n",
    "missing.py": "import os\n\nimport no_such_package\n",
    "raises.py": "THREE = 3\nNAN = THREE / 0\n",
    "chain.py": "import deep\n\ndeep.load()\n",
    "deep.py": "import json\n\ndef load():\n    return json.loads('{bad')\n",
    "number.py": "agent = 5\n",
    "five.py": "def make_agent(session_id):\n    return 5\n",
    "prot.toml": "prot = 8080\n",
    "several.toml": 'max_running = "many"\ntimeout = -1\nqueues = 1\n',
    "three.py": "def make_agent(a, b, c):\n    return None\n",
    "two.py": "def make_agent(a, b):\n    return None\n",
    "failing.py": (
        "from strands import Agent\n\ndef make_agent(session_id) -> Agent:\n    raise RuntimeError('no database')\n"
    ),
    "keyless.py": "from strandline.providers import load_model\n\nmodel = load_model('openai:gpt-4o-mini')\n",
    "misnamed.py": "from strandline.providers import load_model\n\nmodel = load_model('opnai:gpt-4o-mini')\n",
    "text.db": "no database, but long enough to have a head like one " * 10,
    "broken.toml": "port =\n",
    "unknown.toml": "max_runing = 4\n",
    "wrong.toml": 'max_running = "many"\n',
    "folder/agent.py": "",
    "empty/readme": "",
    "sessions/readme": "",
    "file": "",
}
SERVE = ("serve", "--port", "0", "--journal", "memory:")


class Case(NamedTuple):
    """What is typed, and what must be said to it."""

    arguments: Sequence[str]
    expected: Sequence[str]
    variables: Mapping[str, str] = MappingProxyType({})
    code: int = 2


CASES = {
    # the target
    "no agent here": Case(["serve"], ["no agent.py here", "`strandline init` makes one"], {"FOLDER": "empty"}),
    "no such file": Case(["serve", "zzz.py"], ["does not exist", "`strandline init` makes"]),
    "nearly a file": Case(["serve", "agnt.py"], ["does not exist", "did you mean `agent.py`?"]),
    "no such file, and none of Python": Case(
        ["serve", "README.md"], ["README.md", "no such file", "seen from", "Name a Python file, `path/file.py`"]
    ),
    "a file without its ending": Case(["serve", "agnt"], ["no such file", "did you mean `agent.py`?"]),
    "a file of another kind": Case(["serve", "text.db"], ["is not a Python file", "must end in .py"]),
    "a factory of numbers": Case(
        ["serve", "five.py", "--port", "0", "--journal", "memory:"],
        ["returned an object of type builtins.int, not a strands.Agent", "return `Agent(...)`"],
    ),
    "a factory of numbers, in workers": Case(
        ["serve", "five.py", "--port", "0", "--journal", "memory:", "--workers", "2"],
        ["returned an object of type builtins.int, not a strands.Agent", "return `Agent(...)`"],
    ),
    "a folder": Case(["serve", "folder"], ["is a folder", "`folder/agent.py`"]),
    "an empty folder": Case(["serve", "./empty"], ["is a folder", "name another"]),
    "no Python file": Case(["serve", "./text.db"], ["must end in .py"]),
    "a syntax error": Case(["serve", "syntax.py"], ['syntax.py", line 3', "def make_agent(:"]),
    "a missing import": Case(["serve", "missing.py"], ["missing.py, line 3", "import no_such_package", "Install it"]),
    "an error at import": Case(["serve", "raises.py"], ["raises.py, line 2", "NAN = THREE / 0", "ZeroDivisionError"]),
    "an error further down": Case(["serve", "chain.py"], ["chain.py, line 3", "deep.load()", "deep.py, line 4"]),
    "no such name": Case(["serve", "agent.py:factory"], ["has no `factory`", "make_agent", "agent.py:NAME"]),
    "no callable": Case(["serve", "number.py"], ["'int', which cannot be served", "def make_agent(session_id)"]),
    "three parameters": Case(["serve", "three.py"], ["takes 3 parameters", "def make_agent(session_id)"]),
    "two, not async": Case(["serve", "two.py"], ["is not async", "async def answer(message, session)"]),
    "no key": Case(
        ["serve", "keyless.py"],
        ["Set OPENAI_API_KEY", "keyless.py, line 3"],
        {"OPENAI_API_KEY": "", "OPENAI_BASE_URL": ""},
    ),
    "a provider misspelt": Case(["serve", "misnamed.py"], ["did you mean 'openai'", "misnamed.py, line 3"]),
    # settings
    "a flag": Case([*SERVE, "--max-running", "many"], ["'many' (--max-running); it must be a whole number"]),
    "a variable": Case(["serve"], ["(STRANDLINE_TIMEOUT); it must be a number > 0"], {"STRANDLINE_TIMEOUT": "-1"}),
    "another's variable": Case(["serve"], ["port is 'http' (PORT); it must be a whole number"], {"PORT": "http"}),
    "a file's": Case(["serve", "--config", "wrong.toml"], ["max_running is 'many' (wrong.toml); it must be"]),
    "a choice": Case([*SERVE, "--after-crash", "hope"], ["it must be resume or fail"]),
    "a broken file": Case(
        ["serve", "--config", "broken.toml"], ["broken.toml cannot be read", "line 1", "port = 8080"]
    ),
    "no such setting": Case(
        ["serve", "--config", "unknown.toml"], ["did you mean `max_running`?", "strandline settings"]
    ),
    "two letters that changed places": Case(["serve", "--config", "prot.toml"], ["did you mean `port`?"]),
    "several at once": Case(
        ["serve", "--config", "several.toml", "--max-still-working", "none"],
        [
            "the settings have 4 errors",
            "`queues`, which is not a setting",
            "max_running is 'many' (several.toml)",
            "timeout is -1 (several.toml)",
            "max_still_working is 'none' (--max-still-working)",
        ],
        {},
    ),
    "no such settings file": Case(["settings", "--config", "no.toml"], ["no.toml cannot be read", "--config"]),
    "a folder of settings": Case(["settings", "--config", "folder"], ["folder cannot be read", "--config"]),
    "settings, a variable": Case(["settings"], ["(STRANDLINE_PORT); it must be"], {"STRANDLINE_PORT": "x"}),
    "for everybody": Case(["serve", "--host", "0.0.0.0"], ["STRANDLINE_ALLOW_ANONYMOUS=1", "127.0.0.1"]),
    "an address that is not here": Case(
        ["serve", "--host", "192.0.2.1"], ["192.0.2.1", "--port"], {"STRANDLINE_ALLOW_ANONYMOUS": "1"}
    ),
    # the journal
    "a journal of another kind": Case(["serve", "--journal", "postgres:x"], ["'postgres:x'", "`sqlite:PATH`"]),
    "a journal that is a folder": Case(["serve", "--journal", "sqlite:folder", "--port", "0"], ["Name a file in it"]),
    "a journal that is none": Case(["serve", "--journal", "sqlite:text.db", "--port", "0"], ["Restore a backup"]),
    "a journal in a file": Case(["serve", "--journal", "sqlite:file/j.db", "--port", "0"], ["file cannot be made"]),
    "a journal nowhere": Case(["serve", "--journal", "sqlite:/proc/x/j.db", "--port", "0"], ["Name another file"]),
    "verify nothing": Case(["journal", "verify"], ["no journal at .strandline/journal.db", "Name the file"]),
    "verify a folder": Case(["journal", "verify", "folder"], ["is a folder", "Name a file in it"]),
    "verify a text": Case(["journal", "verify", "text.db"], ["is no SQLite database", "Restore a backup"]),
    "verify memory": Case(["journal", "verify", "memory:"], ["is not a file", "Name a file"]),
    "back up nothing": Case(["journal", "backup", "no.db", "to.db"], ["no journal at no.db"]),
    "back up three": Case(["journal", "backup", "a", "b", "c"], ["name the journal and the file to create"]),
    "prune at no age": Case(["journal", "prune", "--older-than", "x"], ["`30d`"]),
    "prune without an age": Case(["journal", "prune"], ["--older-than", "strandline journal prune --help"]),
    "import from nowhere": Case(["journal", "import", "nowhere"], ["nowhere cannot be read", "Name another"]),
    "import from an empty folder": Case(
        ["journal", "import", "sessions"], ["no sessions in sessions", "Name the folder"]
    ),
    "stacks of nobody": Case(["stacks"], ["no server has the journal", "--journal"]),
    "stacks of memory": Case(["stacks", "--journal", "memory:"], ["is not a file"]),
    # beginning
    "init over a file": Case(["init"], ["agent.py already exists", "left unchanged", "strandline init FOLDER"]),
    "init in a file": Case(["init", "file"], ["file is a file", "Name another folder"]),
    "init where nobody may": Case(["init", "/proc/x"], ["cannot be written", "strandline init FOLDER"]),
    "init with no provider": Case(["init", "new", "--model", "gpt-4o"], ["`openai:gpt-4o-mini`"]),
    "init without a model's name": Case(["init", "new", "--model", "ollama"], ["`ollama:llama3.2`"]),
    # what is typed
    "nearly a command": Case(["sevre"], ["no such command 'sevre'", "Did you mean 'serve'?", "strandline --help"]),
    "no command": Case(["frobnicate"], ["no such command", "strandline --help"]),
    "nearly a journal command": Case(["journal", "verfy"], ["Did you mean 'verify'?", "strandline journal --help"]),
    "nearly a flag": Case(["serve", "--prot", "1"], ["no such option: --prot", "--port", "strandline serve --help"]),
    "a flag without its value": Case(["serve", "--port"], ["'--port' requires an argument"]),
    "too much": Case(["doctor", "a", "b"], ["unexpected extra argument", "strandline doctor --help"]),
}


def run(folder: Path, case: Case) -> "subprocess.CompletedProcess[str]":
    variables = dict(case.variables)
    return ran(*case.arguments, folder=folder / variables.pop("FOLDER", "."), variables=variables)


def write_files(folder: Path) -> None:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)


Ended = "Future[subprocess.CompletedProcess[str]]"


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[dict[str, Ended]]":  # type: ignore[valid-type]
    """What the command says to each, asked side by side because starting Python takes most of the time."""
    folder = tmp_path_factory.mktemp("errors")
    write_files(folder)
    with ThreadPoolExecutor(4) as pool:
        yield {what: pool.submit(run, folder, case) for what, case in CASES.items()}


@pytest.mark.parametrize("what", CASES)
def test_whatever_is_wrong_is_one_clear_paragraph(answers: "dict[str, Ended]", what: str) -> None:  # type: ignore[valid-type]
    done: subprocess.CompletedProcess[str] = answers[what].result(DEADLINE_S)  # type: ignore[attr-defined]
    case = CASES[what]
    assert done.returncode == case.code, done.stderr
    said = done.stderr[done.stderr.rindex("strandline: ") :]
    for part in case.expected:
        assert part in said
    assert "Traceback" not in done.stderr
    assert "a bug in Strandline" not in done.stderr
    assert "site-packages" not in done.stderr
    assert f"{Path('src') / 'strandline'}" not in done.stderr
    assert sum(line.startswith("strandline: ") for line in done.stderr.splitlines()) == 1
    if case.arguments[0] != "settings":
        assert done.stdout == ""


# -- what needs somebody else -------------------------------------------------------------------------


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    write_files(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(tmp_path, Case(["serve", "--port", port], []))
    assert done.returncode == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert "--port" in done.stderr


def test_a_journal_that_another_server_has(tmp_path: Path) -> None:
    """Serving, pruning and importing are refused, with who has it."""
    write_files(tmp_path)
    with serving(TARGETS / "remembers.py", folder=tmp_path) as server:
        server.chat("hello")
        for arguments in (
            ["serve", "--port", "0", "--journal", "sqlite:journal.db", "--lock-wait", "0"],
            ["journal", "prune", "--older-than", "1d", "journal.db"],
        ):
            done = run(tmp_path, Case(arguments, []))
            assert done.returncode == 2, done.stderr
            assert f"in use by process {server.pid}" in done.stderr
            assert "Traceback" not in done.stderr
        assert server.chat("again")["status"] == "success"


def test_a_factory_that_raises_is_reported_to_clients_and_found_by_doctor(tmp_path: Path) -> None:
    """The server stays up, since a factory may fail for one session only."""
    write_files(tmp_path)
    with serving("failing.py", folder=tmp_path) as server:
        assert server.chat("hello")["status"] == "error"
        assert server.health()["status"] == "healthy"
    done = run(tmp_path, Case(["doctor", "failing.py"], [], {"STRANDLINE_PORT": "0"}))
    assert done.returncode == 1
    assert "RuntimeError: no database" in done.stdout
    assert "failing.py, line 4" in done.stdout


# -- who reads, and who interrupts --------------------------------------------------------------------


@pytest.mark.parametrize("command", ["settings", "settings --json", "doctor", "serve --help", "journal --help"])
def test_a_reader_that_goes_away(tmp_path: Path, command: str) -> None:
    """`strandline settings | head -1`: nothing is said about it."""
    line = f"{COMMAND} {command} | head -c 1 >/dev/null"
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=environment({"STRANDLINE_PORT": "0"}), capture_output=True, text=True,
        timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.stderr == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_nowhere_to_write_to(tmp_path: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [COMMAND, "settings"], cwd=tmp_path, env=environment({}), stdout=full, stderr=subprocess.PIPE, text=True,
            timeout=DEADLINE_S, check=False,
        )  # fmt: skip
    assert done.returncode == 2
    assert "cannot be written: No space left on device" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("command", ["settings", "chat 127.0.0.1:1", "journal verify"])
def test_what_is_closed_is_no_defect(tmp_path: Path, command: str, closed: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{COMMAND} {command} {closed}"], cwd=tmp_path, env=environment({}), stdin=subprocess.DEVNULL,
        capture_output=True, text=True, timeout=DEADLINE_S, check=False,
    )  # fmt: skip
    assert done.returncode in (0, 2), done.stderr
    assert "defect" not in done.stderr


@pytest.mark.parametrize("command", ["serve", "doctor"])
def test_interrupted_while_the_agent_is_imported(tmp_path: Path, command: str) -> None:
    """It leaves at once without a word, as shells expect it; what doctor has started ends too."""
    waits = 'import os, time\nopen("pid", "w").write(str(os.getpid()))\nos.rename("pid", "there")\ntime.sleep(600)\n'
    (tmp_path / "agent.py").write_text(waits)
    process = subprocess.Popen(
        [COMMAND, command, "agent.py"], cwd=tmp_path, env=environment({"STRANDLINE_PORT": str(reserved_port())}),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        until((tmp_path / "there").exists, "the agent is being imported")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, said) == (130, "")
    pid = int((tmp_path / "there").read_text())
    until(lambda: not Path(f"/proc/{pid}/cmdline").exists() or not _runs(pid), "the process that tried it has ended")


def test_interrupted_while_the_command_itself_is_loaded(tmp_path: Path) -> None:
    """Typer is not imported yet: here it never comes to its end, since its place is taken by one that waits."""
    (tmp_path / "typer.py").write_text('import time\nopen("there", "w").close()\ntime.sleep(600)\n')
    variables = environment({})
    variables["PYTHONPATH"] = os.pathsep.join([str(tmp_path), variables["PYTHONPATH"]])
    process = subprocess.Popen(
        [sys.executable, "-m", "strandline", "--help"], cwd=tmp_path, env=variables, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with process:
        until((tmp_path / "there").exists, "it is being loaded")
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, said) == (-signal.SIGINT, ("", ""))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("encoding", "how"),
    [
        ("ascii", {"PYTHONIOENCODING": "ascii"}),
        ("latin-1", {"PYTHONIOENCODING": "latin-1"}),
        ("ascii", {"PYTHONCOERCECLOCALE": "0"}),  # by the locale itself, of which Python takes errors otherwise
    ],
)
def test_a_terminal_that_is_not_utf_8_gets_replacements(encoding: str, how: dict[str, str], tmp_path: Path) -> None:
    write_files(tmp_path)
    with serving(TARGETS / "remembers.py", folder=tmp_path) as server:
        server.chat("gr\u00fc\u00df dich \u4f60\u597d \U0001f30a")
        variables = {**how, "LC_ALL": "C", "PYTHONUTF8": "0"}
        url = ("--url", server.url)
        for arguments in (("history", *url), ("runs", *url), ("chat", server.url, "-m", "\u4f60")):
            done = subprocess.run(
                [COMMAND, *arguments], cwd=tmp_path, env=environment(variables), capture_output=True, check=False,
                timeout=DEADLINE_S,
            )  # fmt: skip
            stderr = done.stderr.decode(encoding)
            assert (done.returncode, stderr) == (0, ""), stderr
            assert "?" in done.stdout.decode(encoding)
        done = subprocess.run(
            [COMMAND, "serve", "\u4f60.py"], cwd=tmp_path, env=environment(variables), capture_output=True, check=False,
            timeout=DEADLINE_S,
        )  # fmt: skip
        assert done.returncode == 2
        assert "does not exist" in done.stderr.decode(encoding)


def test_what_is_typed_in_another_encoding_is_no_defect(tmp_path: Path) -> None:
    write_files(tmp_path)
    typed = b"x\xe9"  # (an e with an accent, in Latin-1)
    with serving(TARGETS / "remembers.py", folder=tmp_path) as server:
        for arguments in ((b"cancel", typed), (b"move", typed, b"--front"), (b"runs", b"--status", typed)):
            done = subprocess.run(
                [COMMAND, *arguments, b"--url", server.url], cwd=tmp_path, env=environment({}), capture_output=True,
                check=False, timeout=DEADLINE_S,
            )  # fmt: skip
            stderr = done.stderr.decode()
            assert done.returncode == 2, stderr
            assert "is not text in the encoding of this terminal" in stderr
