"""Lists of what is large, as runs and questions are: the server stays under the memory of its container."""

import asyncio
import re
import statistics
import time
from pathlib import Path
from typing import Any

from acceptance.server import Server, ran, serving
from strandline._clock import SystemClock
from strandline._journal.port import Accepted, Bounds, Pause
from strandline._journal.sqlite import SqliteJournal
from strandline._model import (
    Completion,
    InputRequest,
    Message,
    NewRun,
    Outcome,
    Question,
    RunId,
    RunStatus,
    session_key,
)

AGENT = """
async def answer(message, session):
    return "done"
"""
MIB = 1024 * 1024
INPUT = "x" * (9 * MIB)
REASON = "r" * (3 * MIB)
DOCUMENTED_BYTES = 512 * MIB
"""What docs/container.md gives a container."""


async def _keep(path: Path) -> None:
    """Keep 40 runs that wait in a session, 20 that have answered their inputs in another, and 10 sessions that ask."""
    journal = SqliteJournal(path, SystemClock())
    await journal.open("test", max_attempts=3)
    claims = journal.claims()

    async def accept(run_id: str, session: str) -> None:
        run = NewRun(run_id=RunId(run_id), key=session_key(session), input=INPUT, created_at=1.0)
        assert isinstance(await journal.accept(run, Bounds(100, 100), claim_next=True), Accepted)

    for number in range(20):
        await accept(f"run_ended{number}", "ended")
        outcome = Outcome(status=RunStatus.SUCCEEDED, output=INPUT)
        left: list[Message] = [{"role": each, "content": [{"text": "hi"}]} for each in ("user", "assistant")]
        await journal.finish((await anext(claims)).token, Completion(outcome=outcome, messages=left), claim_next=False)
    use: Message = {"role": "assistant", "content": [{"toolUse": {"toolUseId": "t", "name": "pay", "input": {}}}]}
    for number in range(10):
        await accept(f"run_asks{number}", f"asks{number}")
        requests = [InputRequest(f"i{number}", "approval", REASON)]
        outcome = Outcome(status=RunStatus.NEEDS_INPUT, input_requests=requests)
        question = Question(requests=requests, message=use, results={}, state={})
        left = [{"role": "user", "content": [{"text": "hi"}]}, use]
        asking = Completion(outcome=outcome, messages=left, question=question, answer_within_s=1e9)
        await journal.finish((await anext(claims)).token, asking, claim_next=False)
    await journal.change(Pause(session_key("queued")))
    for number in range(40):
        await accept(f"run_queued{number}", "queued")
    await journal.close()


def peak_bytes(server: Server) -> int:
    status = Path(f"/proc/{server.pid}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def send(server: Server, session: str, text: str, **headers: str) -> dict[str, Any]:
    response = server.client.post(f"/v1/sessions/{session}/runs", json={"input": text}, headers=headers)
    assert response.status_code in (200, 202), response.text
    run: dict[str, Any] = response.json()
    return run


def pages(server: Server, path: str, what: str = "runs") -> list[list[dict[str, Any]]]:
    found: list[list[dict[str, Any]]] = []
    cursor: dict[str, str] = {}
    while True:
        response = server.client.get(path, params={"limit": 1000, **cursor})
        assert response.status_code == 200, response.text
        page = response.json()
        found.append(page[what])
        if page["next_cursor"] is None:
            return found
        cursor = {"cursor": page["next_cursor"]}


def test_lists_over_large_inputs_and_outputs_stay_under_the_documented_memory(tmp_path: Path) -> None:
    asyncio.run(_keep(tmp_path / "journal.db"))
    (tmp_path / "echo.py").write_text(AGENT)
    with serving(tmp_path / "echo.py:answer", folder=tmp_path, installed=True) as server:
        (queued,) = pages(server, "/v1/sessions/queued/runs")
        assert [run["run_id"] for run in queued] == [f"run_queued{number}" for number in reversed(range(40))]
        ended = pages(server, "/v1/sessions/ended/runs")
        assert [len(page) for page in ended] == [1] * 20, "of outputs that are larger than a page there is one on it"
        assert [page[0]["run_id"] for page in ended] == [f"run_ended{number}" for number in reversed(range(20))]
        assert all(page[0]["output"] == INPUT for page in ended)
        asking = pages(server, "/v1/sessions", "sessions")
        assert [len(page) for page in asking] == [1] * 9 + [3], "the questions are larger than half a page"
        assert [page[0]["session_id"] for page in asking] == [f"asks{number}" for number in range(10)]
        assert peak_bytes(server) < DOCUMENTED_BYTES


def test_a_foreign_run_is_not_found_as_fast_whatever_its_input(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(AGENT)
    ada, bob = (
        {"Authorization": f"Bearer {ran('keys', 'new', name, '--file', 'keys', folder=tmp_path).stdout.strip()}"}
        for name in ("ada", "bob")
    )
    with serving(tmp_path / "echo.py:answer", "--api-keys-file", "keys", folder=tmp_path) as server:
        runs = {name: send(server, "s", text, **ada)["run_id"] for name, text in (("small", "hi"), ("large", INPUT))}
        times: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(31):
            for name, run_id in runs.items():
                began = time.perf_counter()
                response = server.client.get(f"/v1/runs/{run_id}", headers=bob)
                times[name].append(time.perf_counter() - began)
                assert response.status_code == 404
        small, large = (statistics.median(times[name]) for name in ("small", "large"))
        assert large < small + 0.003, f"{small * 1000:.1f} and {large * 1000:.1f} ms"
