"""What docs/comparison.md says is what came out: its rows are done to a FastAPI server with a lock, and to Strandline.

A test measures both servers in the same way, puts what it measured into words, and finds these words in its row of the
page. A cell is never written by hand: when a test fails, either the page or a server has to change.
"""

import asyncio
import re
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from acceptance import alternative
from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import DEADLINE_S, TARGETS, TESTS, Server, serving, texts, tool_results, until
from strandline._history import UNKNOWN_OUTCOME
from strandline.testing._checker import check_history

PAGE: Final = (TESTS.parent / "docs/comparison.md").read_text()
NAMES: Final = ("FastAPI and a lock", "SQLite")  # whose figures the page repeats
MANY: Final = 1000
BLOCKED_S: Final = 3.0
PATIENCE_S: Final = 3.0
"""How long a server gets to show that it does not do something by itself."""

Measure = Callable[[Server, Checkpoints], str]


def row(when: str) -> tuple[str, str]:
    """Return the two cells of the page's row that begins with `when`."""
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] == when:
            return cells[1], cells[2]
    raise AssertionError(f"docs/comparison.md has no row {when!r}")


@contextmanager
def lock(folder: Path, target: str, *flags: str) -> Iterator[tuple[Server, Checkpoints]]:
    folder.mkdir()
    with (
        checkpoints() as at,
        alternative.serving("lock", TARGETS / target, folder=folder, variables=at.environment) as server,
    ):
        yield server, at


@contextmanager
def strandline(folder: Path, target: str, *flags: str) -> Iterator[tuple[Server, Checkpoints]]:
    folder.mkdir()
    with (
        checkpoints() as at,
        serving(TARGETS / target, *flags, folder=folder, variables=at.environment) as server,
    ):
        yield server, at


def both(folder: Path, measure: Measure, *flags: str, target: str = "agent.py") -> tuple[str, str]:
    """Measure both servers, side by side, in words."""

    def one(serve: Callable[..., AbstractContextManager[tuple[Server, Checkpoints]]], name: str) -> str:
        with serve(folder / name, target, *flags) as (server, at):
            return measure(server, at)

    with ThreadPoolExecutor(2) as threads:
        measured = [threads.submit(one, lock, "lock"), threads.submit(one, strandline, "strandline")]
    return measured[0].result(), measured[1].result()


def answer(pending: "Future[httpx.Response]") -> dict[str, Any]:
    body: dict[str, Any] = pending.result(DEADLINE_S).json()
    return body


def answered(requests: "list[Future[httpx.Response]]", texts_: list[str]) -> int:
    """Return how many clients got the answer that they should; `texts_` are those answers."""
    wait(requests, DEADLINE_S)
    got = [None if each.exception() else each.result() for each in requests]
    return sum(
        reply is not None and reply.status_code == 200 and reply.json()["response"] == text
        for reply, text in zip(got, texts_, strict=True)
    )


def said(server: Server, session_id: str = "default") -> list[str]:
    """Return the texts of user and assistant in the conversation."""
    messages = server.history(session_id)
    return texts(messages, "user") + texts(messages, "assistant")


# -- the rows -----------------------------------------------------------------------------------------


def test_five_requests_at_once(tmp_path: Path) -> None:
    def measure(server: Server, at: Checkpoints) -> str:
        at.hold("q1 model 0")
        requests = server.line_up(*(f"q{number} a" for number in range(1, 6)))
        at.release()
        count = answered(requests, [f"q{number}: did a" for number in range(1, 6)])
        labels = [step.split()[0] for step in at.steps]
        in_order = labels == sorted(labels)  # each one's steps in one piece, one after the other
        sound = check_history(server.history()) == []
        return f"{count} answered, {'one at a time, in order' if in_order and sound else 'mixed up'}"

    assert both(tmp_path, measure) == row("Five requests at once")


def test_a_request_fails_in_the_middle(tmp_path: Path) -> None:
    def measure(server: Server, at: Checkpoints) -> str:
        server.chat("q1")
        assert server.chat("q2 a fail")["status"] == "error"
        after = server.chat("q3")
        if after["status"] == "error":
            return "every later message is refused" if server.chat("q4")["status"] == "error" else "one more fails"
        kept = tool_results(server.history()) == ["did a"]
        failure_kept = any(each.startswith("(This run ended early: agent_error.)") for each in said(server))
        return "the next one is answered" + (
            "; history has the failure and the tool's result" if kept and failure_kept else ""
        )

    assert both(tmp_path, measure) == row("A request fails after its tool has worked")


def test_a_client_leaves(tmp_path: Path) -> None:
    def measure(server: Server, at: Checkpoints) -> str:
        at.hold("q1 a")
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/chat", json={"message": "q1 a"}, timeout=httpx.Timeout(30, read=0.2))
        at.reached("q1 a")
        at.release()
        after = server.chat("q2")
        goes_on = "q1: did a" in said(server) and after["response"] == "q2"
        return "its run continues, then the next one" if goes_on else "its run is lost"

    assert both(tmp_path, measure) == row("A client disconnects while its run executes")


def test_a_client_retries(tmp_path: Path) -> None:
    def measure(server: Server, at: Checkpoints) -> str:
        key = {"Idempotency-Key": "one"}
        at.hold("q1 a")
        with pytest.raises(httpx.ReadTimeout):
            server.client.post("/chat", json={"message": "q1 a"}, headers=key, timeout=httpx.Timeout(30, read=0.2))
        at.reached("q1 a")
        at.release()
        again = server.client.post("/chat", json={"message": "q1 a"}, headers=key).json()
        assert again["response"] == "q1: did a"
        return "it runs twice" if at.steps.count("q1 a") == 2 else "it runs once, and is answered"

    assert both(tmp_path, measure) == row("A client gives up and repeats its request under the same `Idempotency-Key`")


def test_killed_while_three_wait(tmp_path: Path) -> None:
    def measure(server: Server, at: Checkpoints) -> str:
        server.chat("q0")
        at.hold("q1 a")
        server.line_up("q1 a", "q2 a", "q3 a", "q4 a")
        at.reached("q1 a")
        server.kill()
        at.release()
        server.start()
        until(lambda: server.inside() == 0, "quiet")
        replies = said(server)
        if "q0" not in replies:
            return f"all {4 - len(replies)} are lost, and the conversation"
        ran = sum(f"q{number}: did a" in replies for number in (2, 3, 4))
        once = sorted(step for step in at.steps if step.endswith(" a")) == ["q1 a", "q2 a", "q3 a", "q4 a"]
        unknown = tool_results(server.history())[0] == UNKNOWN_OUTCOME
        if not (once and unknown):
            return "something ran twice"
        return f"{ran} run after the restart; history has the fourth's failure"

    assert both(tmp_path, measure) == row("`kill -9` with one in a tool and three waiting")


def test_stopped_with_time_enough(tmp_path: Path) -> None:
    def measure(server: Server, at: Checkpoints) -> str:
        at.hold("q1 a")
        requests = server.line_up("q1 a", "q2", "q3", "q4")
        at.reached("q1 a")
        server.terminate()
        answered_early, _ = wait(requests[1:], PATIENCE_S)  # while the first one still executes
        later = [each.result() for each in requests[1:] if each in answered_early]
        at.release()
        count = answered(requests, ["q1: did a", "q2", "q3", "q4"])
        assert server.ended() in (0, -15)
        if not later:
            return f"{count} are answered before it ends"
        places = [reply.headers["location"] for reply in later if reply.status_code == 202]
        server.start()
        runs = [server.client.get(place, headers={"Prefer": "wait=20"}).json()["output"] for place in places]
        assert runs == ["q2", "q3", "q4"]
        return f"{count} is answered; {len(runs)} get 202 with a `Location`, and run after the restart"

    assert both(tmp_path, measure, "--drain-grace", "20") == row("SIGTERM, and the running request ends in time")


def test_stopped_without_time_enough(tmp_path: Path) -> None:
    def measure(server: Server, at: Checkpoints) -> str:
        server.chat("q0")
        at.hold("q1 a")
        server.line_up("q1 a", "q2")
        at.reached("q1 a")
        server.terminate()
        try:
            code = server.ended(PATIENCE_S)
        except subprocess.TimeoutExpired:
            server.kill()  # as a supervisor does when its patience is over
            code = -9
        at.release()
        server.start()
        until(lambda: server.inside() == 0, "quiet")
        replies = said(server)
        if code == -9 and replies == []:
            return "it waits until it is killed; all is lost"
        assert code == 0
        assert "(This run ended early: stopped.)\nthe server was stopped" in replies
        assert replies[-1] == "q2"
        return "it ends by itself; one ends as `stopped`, one runs after the restart"

    assert both(tmp_path, measure, "--drain-grace", "0.2") == row("SIGTERM, and the running request does not end")


def test_a_restart(tmp_path: Path) -> None:
    def measure(server: Server, at: Checkpoints) -> str:
        server.chat("q1")
        server.terminate()
        server.ended()
        server.start()
        return {0: "every conversation is gone", 2: "every conversation is there"}[len(server.history())]

    assert both(tmp_path, measure) == row("A restart")


def test_a_tool_hangs(tmp_path: Path) -> None:
    def measure(server: Server, at: Checkpoints) -> str:
        at.hold("q1 a")
        requests = server.line_up("q1 a", "q2")
        at.reached("q1 a")
        done, _ = wait(requests, PATIENCE_S)
        if not done:
            return "neither it nor the next one is answered"
        assert answer(requests[0])["error_code"] == "timeout"
        assert answer(requests[1])["response"] == "q2"
        return "it is answered at its `timeout`; the next one runs"

    flags = ("--timeout", "0.5", "--cancel-grace", "0.3", "--unlock-after", "0.5")
    assert both(tmp_path, measure, *flags) == row("A tool never returns")


def test_code_blocks_the_event_loop(tmp_path: Path) -> None:
    def measure(server: Server, at: Checkpoints) -> str:
        blocked = server.ask(f"block {BLOCKED_S}", "blocked")
        at.reached("blocks")
        times = []
        while not blocked.done():
            begun = time.monotonic()
            server.health()
            times.append(time.monotonic() - begun)
        if max(times) > 0.7 * BLOCKED_S:
            return "`/health` waits for as long"
        assert max(times) < 0.5 * BLOCKED_S, max(times)
        return "`/health` answers in milliseconds" if statistics.median(times) < 0.02 else "`/health` is slow"

    assert both(tmp_path, measure, target="blocking.py") == row("Agent code blocks its event loop")


async def flood(server: Server, count: int) -> None:
    """Send many requests to one session at once, and return when each is inside or was answered."""
    body = b'{"message": "more"}'
    request = b"POST /chat HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
    replies: list[bytes] = []
    writers = []

    async def one() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(server.url.rpartition(":")[2]))
        writers.append(writer)
        writer.write(request % len(body) + body)
        await writer.drain()
        listeners.append(asyncio.create_task(listen(reader)))

    async def listen(reader: asyncio.StreamReader) -> None:
        replies.append(await reader.readuntil(b"\r\n\r\n"))

    listeners: list[asyncio.Task[None]] = []
    async with asyncio.timeout(DEADLINE_S):
        for _ in range(0, count, 100):
            await asyncio.gather(*(one() for _ in range(100)))
        while await asyncio.to_thread(server.inside) + len(replies) < count:
            pass
    for listener in listeners:
        listener.cancel()
    await asyncio.gather(*listeners, return_exceptions=True)
    for writer in writers:
        writer.transport.abort()
    statuses = [re.match(rb"HTTP/1.1 (\d+)", reply) for reply in replies]
    assert all(found is not None and found[1] == b"429" for found in statuses)
    assert all(b"retry-after" in reply.lower() for reply in replies)


def test_a_thousand_requests_to_one_session(tmp_path: Path) -> None:
    def measure(server: Server, at: Checkpoints) -> str:
        at.hold("more model 0")
        asyncio.run(flood(server, MANY))
        waiting = server.inside() - 1
        at.release()
        if waiting == MANY - 1:
            return "all wait in memory"
        return f"{waiting} wait; the others get 429 with `Retry-After`"

    assert both(tmp_path, measure) == row("A thousand requests to one session")


# -- what the page says besides -----------------------------------------------------------------------


def test_without_a_lock_strands_refuses_all_but_one(tmp_path: Path) -> None:
    with (
        checkpoints() as at,
        alternative.serving("unprotected", TARGETS / "agent.py", folder=tmp_path, variables=at.environment) as server,
    ):
        at.hold("q1 model 0")
        first = server.line_up("q1")
        at.reached("q1 model 0")
        others = [server.ask(f"q{number}") for number in range(2, 6)]
        wait(others, DEADLINE_S)
        at.release()
        replies = [answer(each) for each in [*first, *others]]
    assert [reply["status"] for reply in replies] == ["success"] + ["error"] * 4
    assert all("concurrent" in reply["response"].lower() for reply in replies[1:]), replies
    assert "of five requests, one is answered and four are refused with `ConcurrencyException`" in " ".join(
        PAGE.split()
    )


@pytest.mark.parametrize(
    ("quoted", "measured"),
    [
        ("One client: median", "One client: median, ms"),
        ("64 sessions: answers a second", "64 sessions: answers/s"),
        ("Memory of a live session", "Memory of a live session: KB"),
    ],
)
def test_figures_are_those_of_the_benchmarks(quoted: str, measured: str) -> None:
    """The page repeats three rows of `docs/benchmarks.md`, for the lock and for Strandline with SQLite."""
    lines = (TESTS.parent / "docs/benchmarks.md").read_text().splitlines()
    subjects = next(line for line in lines if "FastAPI and a lock (" in line).split(" | ")
    figures = next(line for line in lines if line.startswith(f"| {measured} |")).split(" | ")
    lock_, ours = (next(each for each in zip(subjects, figures, strict=True) if name in each[0])[1] for name in NAMES)
    row = re.search(rf"^\| {quoted} \| (\S+)(?: ms| KB)? \| (\S+)(?: ms| KB)? \|$", PAGE, re.MULTILINE)
    assert row is not None
    assert row.groups() == (lock_, ours)


def test_every_row_of_the_page_is_measured() -> None:
    measured = set(re.findall(r'== row\(\s*"(.+)"\s*\)', Path(__file__).read_text()))
    own, _, others = PAGE.partition("\n## With other servers\n")
    assert others, "what was measured once, by hand, has a section of its own"
    rows = [line.split("|")[1].strip() for line in own.splitlines() if line.startswith("| ")]
    figures = {"One client: median", "64 sessions: answers a second", "Memory of a live session"}
    assert set(rows) == measured | figures | {"When this happens", ""}
