"""`strandline demo race`: what it measures, what its judge says of that, and that it ends what it starts."""

import io
import json
import os
import pty
import re
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from acceptance.server import COMMAND, environment, until
from strandline._demo.race.command import from_json
from strandline._demo.race.judge import judge
from strandline._demo.race.picture import draw
from strandline._demo.race.record import ClientResult, Invocation, Race, Request, Scenario, Server, Trial
from strandline._demo.race.text import findings

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs/pictures/race.svg"
KEPT = ROOT / "docs/pictures/race.json"
RUN_S = 180


def command(*arguments: str, folder: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """Run `strandline demo race` to its end, with its temporary folder in `folder`."""
    return subprocess.run(
        [COMMAND, "demo", "race", *arguments],
        cwd=folder,
        env=environment({"TMPDIR": str(folder), "COLUMNS": "80", **variables}),
        capture_output=True,
        encoding="utf-8",
        timeout=RUN_S,
        check=False,
    )


@pytest.fixture(scope="module")
def race_json(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What the command prints as JSON."""
    folder = tmp_path_factory.mktemp("race")
    done = command("--json", folder=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(folder.iterdir()) == [], "something is left in the temporary folder"
    return done.stdout


def judgement(race_json: str, server: Server, scenario: Scenario) -> dict[str, Any]:
    plays = json.loads(race_json)["plays"]
    return next(play["judgement"] for play in plays if (play["server"], play["act"]) == (server, scenario))


# -- what is measured ---------------------------------------------------------------------------------


def test_as_it_comes_strands_answers_one_and_refuses_four(race_json: str) -> None:
    """Its conversation stays well formed as long as its process lives: what was refused never got in."""
    found = judgement(race_json, Server.DEFAULT, Scenario.TOGETHER)
    assert (found["holds"], found["own"], found["refused"]) == (False, [1], [2, 3, 4, 5])
    assert (found["at_once"], found["faults"], found["lost"], found["goes_on"]) == (1, [], [], True)
    race = from_json(race_json.encode())
    refused = [requests.text for requests in race.play(Server.DEFAULT, Scenario.TOGETHER).requests[1:]]
    assert all("already processing a request" in text for text in refused), refused
    said = [text for _, text in findings(race.play(Server.DEFAULT, Scenario.TOGETHER), judge(race.plays[0]))]
    assert "1 answered, 4 refused" in said
    assert judgement(race_json, Server.DEFAULT, Scenario.FAILURE)["refused"] == [2, 3, 4, 5]
    assert judgement(race_json, Server.DEFAULT, Scenario.KILL)["lost"] == [1]


def test_without_protection_requests_meet_in_one_agent(race_json: str) -> None:
    """All five are inside it at once, and the conversation is refused from then on."""
    found = judgement(race_json, Server.UNPROTECTED, Scenario.TOGETHER)
    assert not found["holds"]
    assert found["at_once"] == 5
    assert found["faults"] != []
    assert not found["goes_on"]
    assert not judgement(race_json, Server.UNPROTECTED, Scenario.FAILURE)["holds"]
    assert judgement(race_json, Server.UNPROTECTED, Scenario.KILL)["lost"] == [1, 2, 3, 4, 5]


def test_a_lock_holds_until_something_fails(race_json: str) -> None:
    """It serialises; a failure makes its conversation unusable, and a kill takes all of it."""
    found = judgement(race_json, Server.LOCK, Scenario.TOGETHER)
    assert (found["holds"], found["at_once"], found["own"]) == (True, 1, [1, 2, 3, 4, 5])
    found = judgement(race_json, Server.LOCK, Scenario.FAILURE)
    assert (found["holds"], found["at_once"], found["own"], found["errors"]) == (False, 1, [1], [3, 4, 5])
    assert not found["goes_on"]
    found = judgement(race_json, Server.LOCK, Scenario.KILL)
    assert (found["holds"], found["own"], found["lost"]) == (False, [1], [1, 2, 3, 4, 5])
    assert found["goes_on"]


def test_strandline_holds_in_every_act(race_json: str) -> None:
    """Failures are reported, waiting runs execute, and no tool is started twice."""
    assert all(judgement(race_json, Server.STRANDLINE, scenario)["holds"] for scenario in Scenario)
    assert judgement(race_json, Server.STRANDLINE, Scenario.FAILURE)["own"] == [1, 3, 4, 5]
    race = from_json(race_json.encode())
    killed = race.play(Server.STRANDLINE, Scenario.KILL)
    assert [requests.got for requests in killed.requests] == [ClientResult.ANSWER] + [ClientResult.NOTHING] * 4
    assert killed.tools == [1, 2, 3, 4, 5]
    assert killed.killed_at is not None
    assert [invocation.seat for invocation in killed.invocations if invocation.begun_at > killed.killed_at] == [3, 4, 5]


def test_the_same_race_can_be_shown_again(race_json: str, tmp_path: Path) -> None:
    """From the file, in 80 columns, without colours when nobody would see them, in any encoding."""
    (tmp_path / "race.json").write_text(race_json)
    shown = command("--from", "race.json", folder=tmp_path)
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.endswith((" holds", " breaks")) for line in lines) == 12 + 4, "a line was broken in two"
    assert not any(line.endswith(" ") for line in lines)
    assert "\x1b" not in shown.stdout
    assert "✓ holds" in shown.stdout
    plain = command("--from", "race.json", folder=tmp_path, PYTHONIOENCODING="ascii")
    assert plain.returncode == 0, plain.stderr
    assert "ok holds" in plain.stdout
    assert json.loads(command("--from", "race.json", "--json", folder=tmp_path).stdout) == json.loads(race_json)


# -- what it starts, it ends --------------------------------------------------------------------------


@contextmanager
def started(folder: Path) -> Iterator["tuple[subprocess.Popen[bytes], Callable[[], str]]"]:
    """Start the command on a terminal; give the process, and what returns all that was written to the screen so far."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "demo", "race"],
        cwd=folder,
        env=environment({"TMPDIR": str(folder), "TERM": "xterm-256color"}),
        stdin=its,
        stdout=its,
        stderr=its,
    )
    os.close(its)
    with open(ours, "rb", buffering=0) as terminal, ThreadPoolExecutor(1) as reader:
        pieces: list[bytes] = []
        read = reader.submit(_read_all, terminal, pieces)

        def screen() -> str:
            if process.poll() is not None:
                read.result(30)
            return b"".join(pieces).decode(errors="replace")

        try:
            yield process, screen
        finally:
            process.kill()
            process.wait()


def _read_all(terminal: io.FileIO, pieces: list[bytes]) -> None:
    with suppress(OSError):  # what a terminal says when nobody is at its other end
        while piece := terminal.read(4096):
            pieces.append(piece)


def ports(folder: Path) -> list[int]:
    logs = [log.read_text() for log in folder.glob("strandline-race-*/*/server-*.log")]
    return [int(found[1]) for text in logs if (found := re.search(r"http://127\.0\.0\.1:(\d+)", text))]


def is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_broken_off_it_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """No process, no file, no traceback; until then it shows the progress."""
    with started(tmp_path) as (process, screen):
        until(lambda: list(tmp_path.glob("*/*/*.jsonl")), "the agent works")
        until(lambda: "1. Five at once" in screen(), "the first act is drawn")
        began = ports(tmp_path)
        assert len(began) == 4
        assert all(map(is_listening, began))
        process.send_signal(number)
        assert process.wait(30) == 130
        said = screen()
    assert "Interrupted; all servers were stopped." in said
    assert "Four servers start" in said
    assert "1. Five at once" in said
    assert "Traceback" not in said
    assert not any(map(is_listening, began))
    assert list(tmp_path.iterdir()) == []


def test_killed_it_leaves_no_server(tmp_path: Path) -> None:
    """Its folder stays, since nobody is left to take it away; the servers end by themselves."""
    with started(tmp_path) as (process, _):
        until(lambda: list(tmp_path.glob("*/*/*.jsonl")), "the agent works")
        began = ports(tmp_path)
        assert len(began) == 4
        process.kill()
        until(lambda: not any(map(is_listening, began)), "no server listens any more")


def test_what_cannot_be_done_is_said_before_anything_starts(tmp_path: Path) -> None:
    """Exit code 2, one paragraph, no traceback."""
    (tmp_path / "other.json").write_text("{}")
    for arguments, says in (
        (["--svg", "nowhere/race.svg"], "there is no folder nowhere"),
        (["--from", "nothing.json"], "nothing.json: No such file"),
        (["--from", "other.json"], "other.json is not a saved race"),
    ):
        refused = command(*arguments, folder=tmp_path)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert says in refused.stderr
        assert "Traceback" not in refused.stderr


# -- the judge ----------------------------------------------------------------------------------------


def message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": [{"text": text}]}


def good_play() -> Trial:
    """Return a play in which nothing is wrong, made by hand."""

    def requests(seat: int) -> Request:
        text = f"Book seat {seat}, please."
        answer = f"Seat {seat} is yours."
        return Request(seat=seat, question=text, sent_at=0, ended_at=seat, got=ClientResult.ANSWER, text=answer)

    history = [
        message(*race_json)
        for each in (requests(1), requests(2))
        for race_json in (("user", each.question), ("assistant", each.text))
    ]  # fmt: skip
    invocations = [Invocation(seat=seat, begun_at=seat - 1, ended_at=seat) for seat in (1, 2)]
    return Trial(
        server=Server.STRANDLINE,
        scenario=Scenario.TOGETHER,
        requests=[requests(1), requests(2)],
        invocations=invocations,
        tools=[1, 2],
        history=history,
        following=requests(6),
        over=True,
    )


def test_the_judge_finds_nothing_where_nothing_is_wrong() -> None:
    assert judge(good_play()).holds


@pytest.mark.parametrize(
    ("broken", "finds"),
    [
        (
            lambda play: {"invocations": [replace(play.invocations[0], ended_at=1.5), play.invocations[1]]},
            {"at_once": 2},
        ),
        (
            lambda play: {"invocations": [replace(play.invocations[0], ended_at=None), play.invocations[1]]},
            {"at_once": 2},
        ),
        (lambda play: {"history": play.history[:2]}, {"lost": [2]}),
        (lambda play: {"history": play.history[:3]}, {"unfinished": [2]}),
        (lambda play: {"history": [play.history[0], *play.history[2:]]}, {"unfinished": [1]}),
        (lambda play: {"tools": [1, 2, 1]}, {"twice": [1]}),
        (lambda play: {"following": replace(play.following, got=ClientResult.ERROR)}, {"goes_on": False}),
        (
            lambda play: {"requests": [play.requests[0], replace(play.requests[1], got=ClientResult.ERROR)]},
            {"errors": [2]},
        ),
        (
            lambda play: {"requests": [play.requests[0], replace(play.requests[1], text="Seat 1 is yours.")]},
            {"others": [2]},
        ),
    ],
)
def test_the_judge_finds_what_is_wrong_on_whatever_server(
    broken: Callable[[Trial], dict[str, Any]], finds: dict[str, Any]
) -> None:
    for server in Server:
        play = replace(good_play(), server=server)
        found = judge(replace(play, **broken(play)))
        assert not found.holds
        assert {name: getattr(found, name) for name in finds} == finds


def test_what_an_act_breaks_on_purpose_is_not_held_against_a_server() -> None:
    play = good_play()
    fails = replace(play.requests[1], fails=True, got=ClientResult.ERROR)
    assert judge(replace(play, requests=[play.requests[0], fails])).holds
    assert judge(replace(play, requests=[play.requests[0], replace(play.requests[1], got=ClientResult.NOTHING)])).holds


# -- the picture --------------------------------------------------------------------------------------


def test_the_picture_of_the_readme_is_drawn_from_the_race_beside_it() -> None:
    race = from_json(KEPT.read_bytes())
    assert PICTURE.read_text(encoding="utf-8") == draw(race), "draw it again: see docs/comparison.md"
    assert len(race.plays) == len(Server) * len(Scenario)


def test_the_picture_follows_what_was_measured() -> None:
    """A race with another outcome gives another picture, not the same words."""
    race = from_json(KEPT.read_bytes())
    good = replace(good_play(), scenario=Scenario.TOGETHER)
    plays = [
        replace(good, server=play.server)
        if play.server is Server.DEFAULT and play.scenario is Scenario.TOGETHER
        else play
        for play in race.plays
    ]
    other = Race(strandline="1", strands="1", python="3", seconds=1, plays=plays)
    assert "1 answered, 4 refused" in draw(race)
    assert "4 refused" not in draw(other)
