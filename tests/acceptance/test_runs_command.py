"""`strandline sessions`, `runs`, `history`, `cancel` and `move`, in pipes and in a terminal, with a real server."""

import http.server
import json
import sqlite3
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from acceptance.checkpoints import Checkpoints
from acceptance.server import TARGETS, Server, ran, serving
from acceptance.terminal import CTRL_C, terminal
from ports import reserved_port
from strandline._cli.session import IF_BUSY, NAMES, ON_DISCONNECT, ON_QUESTION
from strandline._model import IfBusy, OnDisconnect, OnQuestion, RunDefaults

pytestmark = pytest.mark.usefixtures("nothing_left_behind")


@pytest.fixture(scope="module")
def server(at: Checkpoints, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("runs")
    with serving(TARGETS / "agent.py", folder=folder, variables=at.environment) as made:
        (folder / "strandline.toml").write_text(f"port = {made.url.rpartition(':')[2]}\n")
        yield made


def typed(server: Server, *arguments: str, folder: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run the command in a pipe, in the folder whose settings name the server."""
    return ran(*arguments, folder=folder or server.folder)


def said(server: Server, *arguments: str) -> str:
    done = typed(server, *arguments)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


def sent(server: Server, session: str, prompt: str, **body: Any) -> str:
    answer = server.client.post(f"/v1/sessions/{session}/runs", json={"input": prompt, **body})
    assert answer.status_code == 202, answer.text
    return str(answer.json()["run_id"])


def held(server: Server, at: Checkpoints, session: str, label: str) -> str:
    """Send a run, and return its id once it stands in its model's first call."""
    at.hold(f"{label} model 0")
    run_id = sent(server, session, label)
    at.reached(f"{label} model 0")
    return run_id


def ended(server: Server, run_id: str) -> dict[str, Any]:
    run = server.run(run_id, wait_s=20)
    assert run["ended_at"] is not None
    return run


def columns(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_runs_are_listed_as_they_will_be_done(server: Server, at: Checkpoints) -> None:
    first = sent(server, "listed", "l0")
    ended(server, first)
    running = held(server, at, "listed", "l1")
    last = sent(server, "listed", "l2")
    urgent = sent(server, "listed", "l3", priority=1)
    lines = said(server, "runs", "listed").splitlines()
    assert columns(lines[0]) == ["RUN", "STATUS", "ACCEPTED", "TOOK", "WHAT"]
    assert [columns(line)[:2] for line in lines[1:]] == [
        [running, "running"],
        [urgent, "queued"],
        [last, "queued"],
        [first, "succeeded"],
    ]
    assert columns(lines[1])[-1] == "model"
    assert "next" in lines[2]
    assert "(priority 1)" in lines[2]
    assert "position 2" in lines[3]
    assert columns(lines[4])[-1] == "l0"
    found = json.loads(said(server, "runs", "listed", "--json"))
    assert found.keys() == {"runs", "next_cursor"}
    assert {run["run_id"] for run in found["runs"]} == {first, running, last, urgent}


def test_a_list_has_the_requested_length_and_says_that_there_is_more(server: Server) -> None:
    runs = [sent(server, "long", f"n{number}") for number in range(3)]
    ended(server, runs[-1])
    done = typed(server, "runs", "long", "--limit", "2")
    assert len(done.stdout.splitlines()) == 3
    assert "There are more" in done.stderr
    assert len(json.loads(said(server, "runs", "long", "--limit", "3", "--json"))["runs"]) == 3
    done = typed(server, "history", "long", "--limit", "2")
    assert done.stdout == "> n2\n  n2\n\n"
    assert done.stderr == "There are more; --all shows them.\n"
    assert len(said(server, "runs", "long", "--limit", "2", "--all").splitlines()) == 4
    assert len(json.loads(said(server, "history", "long", "--all", "--limit", "1", "--json"))["messages"]) == 6
    most, limited = (said(server, "sessions", *limit).splitlines() for limit in (["--all"], ["--limit", "1000"]))
    assert most == limited


def test_a_session_is_paused_and_resumed(server: Server, at: Checkpoints) -> None:
    running = held(server, at, "paused", "p0")
    assert said(server, "pause", "paused") == f"Session paused is paused; {running} executes.\n"
    waiting = sent(server, "paused", "p1")
    at.release()
    ended(server, running)
    assert said(server, "pause", "paused") == "Session paused is paused; 1 waits.\n"
    assert server.run(waiting)["status"] == "queued"
    assert json.loads(said(server, "resume", "paused", "--json"))["paused"] is False
    ended(server, waiting)
    assert said(server, "resume", "paused") == "Session paused is resumed.\n"
    done = typed(server, "pause", "unknown")
    assert (done.returncode, done.stdout) == (2, "")
    assert "`strandline sessions` lists the sessions" in done.stderr


def test_runs_are_watched_until_ctrl_c(server: Server, at: Checkpoints) -> None:
    running = held(server, at, "watched", "w0")
    with terminal("runs", "watched", "--watch", folder=server.folder, columns=120) as shown:
        shown.until(f"{running}  running")
        at.release()
        shown.until(f"{running}  succeeded")
        shown.type(CTRL_C)
        assert shown.ended() == 130
    done = typed(server, "runs", "watched", "--watch")
    assert (done.returncode, done.stdout) == (2, "")
    assert "on a terminal" in done.stderr


def test_a_run_is_shown_by_its_id(server: Server) -> None:
    failed = sent(server, "one", "o1 a fail", metadata={"from": "test"})
    ended(server, failed)
    lines = dict(line.split("  ", 1) for line in said(server, "runs", failed).splitlines() if "  " in line)
    shown = {name.strip(): value.strip() for name, value in lines.items()}
    assert (shown["run"], shown["session"], shown["status"]) == (failed, "one", "failed")
    assert shown["now"].startswith("agent_error: ")
    assert shown["metadata"] == "from=test"
    assert json.loads(said(server, "runs", failed, "--json"))["run_id"] == failed


def test_sessions_say_what_waits_and_what_executes(server: Server, at: Checkpoints) -> None:
    ended(server, sent(server, "quiet", "q0"))
    running = held(server, at, "busy", "b0")
    sent(server, "busy", "b1")
    lines = {columns(line)[0]: columns(line)[1:] for line in said(server, "sessions").splitlines()}
    assert lines["SESSION"] == ["MESSAGES", "WAITING", "NOW"]
    assert lines["quiet"] == ["2", "0"]
    assert lines["busy"][1:] == ["1", f"{running} executes"]
    found = json.loads(said(server, "sessions", "--json"))["sessions"]
    assert {"quiet", "busy"} <= {each["session_id"] for each in found}


def test_history_shows_questions_tools_and_answers(server: Server) -> None:
    ended(server, sent(server, "shown", "h1 a"))
    assert said(server, "history", "shown").splitlines() == [
        "> h1 a",
        "  Round 0. ",
        '  * work(label="h1", name="a") -> did a',
        "  h1: did a",
        "",
    ]
    messages = json.loads(said(server, "history", "shown", "--json"))["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user", "assistant"]


def test_what_was_discarded_is_shown_to_those_who_ask(server: Server, at: Checkpoints) -> None:
    at.hold("d1 model 1")
    sent(server, "hidden", "d1 a")
    at.reached("d1 model 1")
    instead = sent(server, "hidden", "d2", if_busy="rollback")
    at.release()
    ended(server, instead)
    assert "d1" not in said(server, "history", "hidden")
    assert "> (discarded) d1 a\n" in said(server, "history", "hidden", "--discarded")


def test_a_waiting_run_is_cancelled_at_once_and_an_executing_one_soon(server: Server, at: Checkpoints) -> None:
    running = held(server, at, "stop", "s0")
    waiting = sent(server, "stop", "s1")
    done = typed(server, "cancel", waiting, "run_unknown", running)
    assert done.stdout.splitlines() == [
        f"{waiting} was cancelled; it never started.",
        f"{running} is executing (model) and was asked to stop.",
    ]
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "there is no run run_unknown; `strandline runs SESSION`" in done.stderr
    at.release()
    assert ended(server, running)["status"] == "cancelled"
    assert said(server, "cancel", running) == f"{running} was cancelled.\n"
    done_before = ended(server, sent(server, "was-done", "w0"))["run_id"]
    done = typed(server, "cancel", done_before)
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == f"strandline: run {done_before} has ended; `strandline runs {done_before}` shows its outcome\n"
    )


def test_all_that_waits_in_a_session_is_cancelled_and_with_running_the_rest(server: Server, at: Checkpoints) -> None:
    running = held(server, at, "all", "w0")
    waiting = [sent(server, "all", "w1"), sent(server, "all", "w2")]
    lines = said(server, "cancel", "--session", "all").splitlines()
    assert sorted(lines) == sorted(f"{each} was cancelled." for each in waiting)
    assert said(server, "cancel", "-s", "all", "--running") == f"{running} is executing and was asked to stop.\n"
    at.release()
    assert ended(server, running)["status"] == "cancelled"
    done = typed(server, "cancel", "-s", "all")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "Nothing waits in session all.\n")


def test_a_run_is_moved_to_the_front_or_by_priority(server: Server, at: Checkpoints) -> None:
    held(server, at, "moved", "m0")
    runs = [sent(server, "moved", f"m{number}") for number in (1, 2, 3)]
    assert said(server, "move", runs[2], "--front") == f"{runs[2]} is now at position 1 of session moved.\n"
    assert said(server, "move", runs[0], "--priority", "5") == f"{runs[0]} is now at position 3 of session moved.\n"
    order = [columns(line)[0] for line in said(server, "runs", "moved").splitlines()[2:]]
    assert order == [runs[2], runs[1], runs[0]]
    at.release()
    ended(server, runs[0])
    done = typed(server, "move", runs[0], "--front")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"`strandline runs {runs[0]}` shows its outcome" in done.stderr


def test_an_agents_question_is_shown_and_answered(server: Server) -> None:
    run = ended(server, sent(server, "asks", "i1 @b"))
    (request,) = run["input_requests"]
    lines = said(server, "answer", "asks").splitlines()
    assert [columns(line) for line in lines] == [["ID", "NAME", "WHY"], [request["id"], "@b", request["reason"]]]
    assert json.loads(said(server, "answer", "asks", "--json")) == [request]
    assert "waits for an answer: @b" in said(server, "sessions")
    goes_on = said(server, "answer", "asks", "gladly").split()[0]
    assert ended(server, goes_on)["output"] == "i1: did @b (gladly)"
    done = typed(server, "answer", "asks", "again")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "session asks has no open question" in done.stderr
    done = typed(server, "answer", "asks", "--to", f"{request['id']}=again")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "answered" in done.stderr


def test_on_a_terminal_a_question_is_shown_whole_and_a_long_name_moves_its_own_row_only(server: Server) -> None:
    run = ended(server, sent(server, "whole", f"{'what-is-to-be-allowed-' * 5}end @b"))
    with terminal("answer", "whole", folder=server.folder, columns=40) as shown:
        assert shown.ended() == 0
    assert run["input_requests"][0]["reason"] in shown.screen
    ended(server, sent(server, "n" * 200, "x"))
    with terminal("sessions", "--all", folder=server.folder, columns=80) as shown:
        assert shown.ended() == 0
    lines = shown.screen.splitlines()
    assert max(len(line) for line in lines if not line.startswith("n" * 200)) <= 80
    done = typed(server, "answer", "whole", "--to", "none=yes")
    assert "`strandline answer SESSION` shows the open questions of a session" in done.stderr


def test_a_question_is_withdrawn_and_that_is_said(server: Server) -> None:
    run_id = sent(server, "withdrawn", "i1 @b")
    ended(server, run_id)
    assert (
        said(server, "cancel", run_id)
        == f"{run_id} asks no more: its question was dismissed, and the session continues.\n"
    )
    ended(server, sent(server, "withdrawn", "i2 @b"))
    output = said(server, "cancel", "--session", "withdrawn", "--running")
    assert output == "The question of session withdrawn was dismissed; the session continues.\n"
    done = typed(server, "cancel", "--session", "withdrawn", "--running")
    assert done.stderr == "Nothing waits in session withdrawn.\n"


def test_of_several_questions_each_is_answered_by_its_id(server: Server) -> None:
    questions = ended(server, sent(server, "several", "i2 @b+@c"))["input_requests"]
    assert len(questions) == 2
    done = typed(server, "answer", "several", "yes")
    assert done.returncode == 2
    assert "answer each with --to ID=TEXT" in done.stderr
    to = [part for each in questions for part in ("--to", f"{each['id']}={each['name']}!")]
    goes_on = said(server, "answer", "several", *to).split()[0]
    assert ended(server, goes_on)["output"] == "i2: did @b (@b!), did @c (@c!)"
    for wrong in (("answer", "several", "x", "--to", "a=b"), ("answer", "several", "--to", "a")):
        assert typed(server, *wrong).returncode == 2


def test_what_cannot_be_done_is_said_in_one_paragraph(server: Server, tmp_path: Path) -> None:
    nobody = f"http://127.0.0.1:{reserved_port()}"
    for arguments, expected in [
        (("sessions", "--url", nobody), "strandline serve agent.py; or use another address: --url"),
        (("runs", "--url", "ftp://x"), "http://HOST:PORT"),
        (("runs", "no spaces", "--url", server.url), "session_id"),
        (("runs", "run_unknown", "--url", server.url), "`strandline runs SESSION`"),
        (("history", "--limit", "0"), "--limit"),
        (("cancel",), "say what to cancel"),
        (("cancel", "run_x", "--session", "y"), "say what to cancel"),
        (("cancel", "run_x", "--running"), "--running needs --session"),
        (("cancel", "--session", "unknown", "--url", server.url), "`strandline sessions` lists"),
        (("move", "run_x"), "--front, or --priority N"),
        (("move", "run_x", "--front", "--priority", "1"), "--front, or --priority N"),
        (("move", "run_x", "--priority", "9"), "--priority"),
        (("sessions", "--url", f"{server.url}/elsewhere"), "not a Strandline server"),
    ]:
        done = typed(server, *arguments, folder=tmp_path)
        assert (done.returncode, done.stdout) == (2, ""), arguments
        assert expected in done.stderr, arguments
        assert done.stderr.count("\n") == 1, done.stderr


def test_nothing_to_show_is_said_and_is_no_error(server: Server) -> None:
    for arguments, expected in [
        (("history", "unknown"), "Session unknown has no messages yet.\n"),
        (("runs", "unknown"), "Session unknown has no runs.\n"),
    ]:
        done = typed(server, *arguments)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", expected)


def test_another_server_is_reported_as_such(server: Server) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        try:
            done = typed(server, "sessions", "--url", f"127.0.0.1:{other.server_port}")
        finally:
            other.shutdown()
            thread.join()
    assert done.returncode == 2
    assert "is not a Strandline server" in done.stderr


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_no_row_is_wider_than_it(server: Server, columns: int, tmp_path: Path) -> None:
    session = f"wide-{columns}"
    ended(server, sent(server, session, "x" * 200))
    with terminal("runs", session, "--url", server.url, folder=tmp_path, columns=columns) as shown:
        shown.ended()
        rows = [line for line in shown.screen.splitlines() if line.strip()]
    assert len(rows) == 2
    assert max(map(len, rows)) <= columns
    assert rows[1].rstrip().endswith(("…", "..."))


def test_a_damaged_run_is_named_and_all_others_are_listed(server: Server) -> None:
    first, second, third = (ended(server, sent(server, "torn", f"torn {n}"))["run_id"] for n in range(3))
    with closing(sqlite3.connect(server.folder / "journal.db")) as connection, connection:
        spoilt = connection.execute("UPDATE runs SET outcome = zeroblob(9) WHERE run_id = ?", (second,))
        assert spoilt.rowcount == 1
    page = server.client.get("/v1/sessions/torn/runs").json()
    assert ([run["run_id"] for run in page["runs"]], page["damaged"]) == ([third, first], [second])
    alone = server.client.get(f"/v1/runs/{second}")
    assert (alone.status_code, alone.json()["code"]) == (503, "journal_unavailable")
    done = typed(server, "runs", "torn")
    assert done.returncode == 0
    assert third in done.stdout
    assert first in done.stdout
    assert second not in done.stdout
    assert f"Not shown, because damaged in the journal: {second}." in done.stderr


def test_a_session_is_shown_changed_and_deleted(server: Server, at: Checkpoints) -> None:
    sent(server, "mine", "hello")
    server.quiet()
    assert {"session   mine", "messages  2"} <= set(said(server, "sessions", "show", "mine").splitlines())
    changes = ("--if-busy", "interrupt", "--priority", "2", "--timeout", "9.5", "--option", 'metadata={"team": "blue"}')
    changed = said(server, "sessions", "change", "mine", *changes)
    options = {"if_busy": "interrupt", "priority": 2, "timeout": 9.5, "metadata": {"team": "blue"}}
    assert [line.split(maxsplit=2)[1:] for line in changed.splitlines() if line.startswith("option")] == [
        ["if_busy", '"interrupt"'],
        ["priority", "2"],
        ["timeout", "9.5"],
        ["metadata", '{"team":"blue"}'],
    ]
    as_json = json.loads(said(server, "sessions", "show", "mine", "--json"))
    assert as_json["options"] == options
    assert as_json == server.client.get("/v1/sessions/mine").json()
    more = ("--unset", "if-busy", "--unset", "metadata", "--option", 'collect={"quiet": 1}', "--json")
    assert json.loads(said(server, "sessions", "change", "mine", *more))["options"] == {
        "priority": 2,
        "timeout": 9.5,
        "collect": {"quiet": 1.0},
    }
    assert "option" not in said(server, "sessions", "change", "mine", "--clear")

    sent(server, "mine", "hello again")
    held(server, at, "mine", "held")
    busy = typed(server, "sessions", "delete", "mine")
    assert (busy.returncode, "`strandline runs mine` shows its runs" in busy.stderr) == (2, True), busy.stderr
    at.release()
    server.quiet()
    assert said(server, "sessions", "delete", "mine") == "Session mine is deleted.\n"
    for verb in ("show", "delete"):
        gone = typed(server, "sessions", verb, "mine")
        assert (gone.returncode, "`strandline sessions` lists the sessions" in gone.stderr) == (2, True), gone.stderr


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ((), "say what to change"),
        (("--clear", "--priority", "1"), "say it alone"),
        (("--priority", "1", "--unset", "priority"), "say once what becomes of priority"),
        (("--option", "metadata"), "needs a value as JSON"),
        (("--option", "metadata={"), "needs a value as JSON"),
        (("--option", "unknown=1"), "unknown"),
        (("--if-busy", "sometimes"), "if_busy"),
    ],
)
def test_a_wrong_change_of_a_session_changes_nothing(server: Server, arguments: tuple[str, ...], error: str) -> None:
    sent(server, "wrong", "hello")
    server.quiet()
    done = typed(server, "sessions", "change", "wrong", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert error in done.stderr
    assert server.client.get("/v1/sessions/wrong").json()["options"] == {}


def test_the_options_of_a_session_are_offered_by_the_shell() -> None:
    assert (set(IF_BUSY), set(ON_QUESTION), set(ON_DISCONNECT)) == (set(IfBusy), set(OnQuestion), set(OnDisconnect))
    assert set(NAMES) == set(RunDefaults.__struct_fields__)
