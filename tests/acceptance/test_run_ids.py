"""Ids of runs can be typed: in part, with Tab; all sessions are watched at once on a terminal of 80 columns."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.server import TARGETS, Server, ran, serving
from acceptance.terminal import CTRL_C, terminal
from ports import reserved_port

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("ids")
    with serving(TARGETS / "agent.py", folder=folder, variables=at.environment) as made:
        (folder / "strandline.toml").write_text(f"port = {made.url.rpartition(':')[2]}\n")
        yield made


def sent(server: Server, session: str, prompt: str) -> str:
    answer = server.client.post(f"/v1/sessions/{session}/runs", json={"input": prompt})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


def executing(server: Server, at: Checkpoints, session: str, label: str) -> str:
    at.hold(f"{label} model 0")
    run_id = sent(server, session, label)
    at.reached(f"{label} model 0")
    return run_id


def test_an_end_or_a_beginning_of_an_id_is_enough_for_every_command(server: Server, at: Checkpoints) -> None:
    running = executing(server, at, "typed", "t0")
    first, second = sent(server, "typed", "t1"), sent(server, "typed", "t2")
    done = ran("runs", second[-8:], folder=server.folder)
    assert f"run       {second}\n" in done.stdout, done.stderr
    beginning = next(first[:end] for end in range(8, 33) if not (running + " " + second).count(first[:end]))
    assert json.loads(ran("runs", beginning, "--json", folder=server.folder).stdout)["run_id"] == first
    assert ran("move", second[-6:], "--front", folder=server.folder).stdout.startswith(
        f"{second} is now at position 1 "
    )
    assert ran("cancel", second[-6:], folder=server.folder).stdout == f"{second} was cancelled; it never started.\n"


def test_an_ambiguous_or_unknown_part_of_an_id_is_reported_and_nothing_is_changed(
    server: Server, at: Checkpoints
) -> None:
    executing(server, at, "several", "s0")
    waits = [sent(server, "several", f"s{number}") for number in (1, 2)]
    shared = next(waits[0][:end] for end in range(31, 0, -1) if waits[1].startswith(waits[0][:end]))
    assert len(shared) > 8
    done = ran("cancel", shared, folder=server.folder)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"runs have an id that begins or ends with {shared}: " in done.stderr
    assert f"{waits[1]} (session several)" in done.stderr
    assert done.stderr.endswith("Type more of it\n")
    assert all(server.run(each)["status"] == "queued" for each in waits)
    done = ran("runs", "run_fffff", folder=server.folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert "none of your latest 500 runs has an id that begins or ends with run_fffff" in done.stderr
    done = ran("runs", "0123456789abcdef", folder=server.folder)
    assert (done.returncode, done.stdout) == (2, "")
    session = sent(server, "deadbeef", "named like an id")
    assert session in ran("runs", "deadbeef", folder=server.folder).stdout, "a session of that name goes first"


def test_runs_of_a_status_are_listed_over_all_sessions(server: Server, at: Checkpoints) -> None:
    running = executing(server, at, "listed-a", "l0")
    waits = sent(server, "listed-a", "l1")
    lines = ran("runs", "--status", "queued", "--status", "running", folder=server.folder).stdout.splitlines()
    assert lines[0].split() == ["RUN", "SESSION", "STATUS", "ACCEPTED", "TOOK", "WHAT"]
    assert [line.split()[:3] for line in lines[1:]] == [[waits, "listed-a", "queued"], [running, "listed-a", "running"]]
    listed = json.loads(ran("runs", "--status", "queued", "--json", folder=server.folder).stdout)
    assert [each["run_id"] for each in listed["runs"]] == [waits]
    done = ran("runs", "--status", "failed", folder=server.folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "No runs match.\n")
    for wrong, expected in [
        (("--status", "dead"), "it must be among queued"),
        (("x", "--status", "queued"), "cannot be combined with SESSION"),
    ]:
        done = ran("runs", *wrong, folder=server.folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert expected in done.stderr


def test_all_sessions_are_watched_in_80_columns_with_ids_that_can_be_typed(server: Server, at: Checkpoints) -> None:
    names = ["watched-with-a-name-that-is-long", "w2"]
    running = [executing(server, at, name, f"{name}-0") for name in names]
    waits = sent(server, "w2", "x" * 200)
    with terminal("runs", "--watch", folder=server.folder, columns=80) as shown:
        shown.until(f"{running[0][-8:]}  watched-with-a-…  running  ")
        shown.until(f"{running[1][-8:]}  w2                running  ")
        shown.until(f"{waits[-8:]}  w2                queued  ")
        shown.until("next")
        at.release()
        shown.until(f"{waits[-8:]}  w2                succeeded")
        shown.type(CTRL_C)
        assert shown.ended() == 130
    assert max(map(len, shown.screen.splitlines())) <= 80
    assert waits in ran("runs", waits[-8:], folder=server.folder).stdout


def test_what_executes_is_watched_however_much_waits(server: Server, at: Checkpoints) -> None:
    running = executing(server, at, "crowded", "crowded-0")
    waiting = [sent(server, "crowded", f"crowded-{number}") for number in range(1, 4)]
    with terminal("runs", "--watch", "--limit", "2", folder=server.folder, columns=80) as shown:
        shown.until(f"{running[-8:]}  crowded  running  ")
        shown.until(f"{waiting[-1][-8:]}  crowded  queued  ")
        shown.type(CTRL_C)
        assert shown.ended() == 130


def completed(folder: Path, line: str, shell: str = "bash", **variables: str) -> list[str]:
    """Ask as a shell does; the last word of the line is the one to complete."""
    given = {"_STRANDLINE_COMPLETE": f"complete_{shell}", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
    done = ran(folder=folder, variables={**given, **variables})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout.split()


def test_tab_offers_sessions_and_runs_of_the_commands_server(server: Server, tmp_path: Path) -> None:
    run_id = sent(server, "tab-1", "x")
    other = sent(server, "tab-2", "y")
    for command in ("runs", "history", "pause", "resume", "answer", "chat --session", "cancel -s"):
        assert completed(server.folder, f"strandline {command} tab-") == ["tab-1", "tab-2"], command
    assert {run_id, other} <= set(completed(server.folder, "strandline cancel "))
    assert completed(server.folder, f"strandline cancel {run_id[:-2]}") == [run_id]
    assert completed(server.folder, f"strandline move {run_id[:-2]}") == [run_id]
    assert completed(server.folder, f"strandline runs {run_id[:-2]}") == [run_id]
    assert completed(tmp_path, f"strandline pause --url {server.url} tab-2") == ["tab-2"]
    assert completed(server.folder, "strandline runs --status que") == ["queued"]


def test_tab_says_nothing_where_nobody_answers(tmp_path: Path) -> None:
    (tmp_path / "strandline.toml").write_text(f"port = {reserved_port()}\n")
    assert completed(tmp_path, "strandline runs ta") == []
    (tmp_path / "strandline.toml").write_text("port = [\n")
    assert completed(tmp_path, "strandline runs ta") == []
    assert completed(tmp_path, "strandline cancel --url nonsense://x ") == []
