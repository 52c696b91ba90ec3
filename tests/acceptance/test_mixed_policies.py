"""Two hundred clients on one session, of all policies: one run at a time, none lost, and a history that is true.

The agent is that of the soak: its tools write down themselves when they begin and end.
"""

import asyncio
import os
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import httpx

from acceptance.server import DEADLINE_S, TESTS, Server, serving, texts, until
from soak.ledger import VARIABLE, Line, Reader
from soak.server import ROOT
from soak.trial import TARGET
from strandline._model import Message
from strandline.testing._checker import check_history

CLIENTS = 200
BETWEEN_S = 0.02
SESSION = "busy"
POLICIES = ("enqueue", "reject", "interrupt", "rollback")
ENDED = {"succeeded", "cancelled"}


async def all_at_once(server: Server) -> list[tuple[dict[str, Any], httpx.Response]]:
    """Send half of all requests at once, the others while those wait, some of them twice under one key.

    Returns each answer with its request.
    """
    chance = random.Random(5)
    requests: list[tuple[dict[str, Any], dict[str, str]]] = []
    for number in range(CLIENTS):
        body: dict[str, Any] = {"input": f"m0-{number} work.4", "if_busy": chance.choice(POLICIES)}
        if chance.random() < 0.3:
            body["priority"] = chance.randint(1, 5)
        keyed = {"Idempotency-Key": f"key {number - number % 5}"} if number % 5 < 2 else {}
        if number % 5 == 1:
            body = requests[-1][0]
        requests.append((body, {"Prefer": f"wait={DEADLINE_S:.0f}", **keyed}))
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=server.url, timeout=DEADLINE_S, limits=limits, trust_env=False) as client:

        async def ask(number: int, body: dict[str, Any], headers: dict[str, str]) -> httpx.Response:
            await asyncio.sleep(max(0, number - CLIENTS // 2) * BETWEEN_S)  # a client that comes later
            return await client.post(f"/v1/sessions/{SESSION}/runs", json=body, headers=headers)

        answers = await asyncio.gather(*(ask(number, *each) for number, each in enumerate(requests)))
    return [(body, answer) for (body, _), answer in zip(requests, answers, strict=True)]


def cut_off(server: Server, number: int, policy: str) -> list[tuple[dict[str, Any], httpx.Response]]:
    """Have a run cancelled in its tool by one that comes with this policy: by chance it may have come to neither."""
    path, headers = f"/v1/sessions/{SESSION}/runs", {"Prefer": f"wait={DEADLINE_S:.0f}"}
    long, short = {"input": f"m1-{number} work.60000"}, {"input": f"m2-{number} work.4", "if_busy": policy}
    first = server.submit(server.client.post, path, json=long, headers=headers)

    def is_in_its_tool() -> bool:
        running = server.client.get(f"/v1/sessions/{SESSION}").json()["running"]
        return running is not None and str(server.run(running)["phase"]).startswith("tool")

    until(is_in_its_tool, "it is in its tool")
    second = server.client.post(path, json=short, headers=headers)
    return [(long, first.result(DEADLINE_S)), (short, second)]


def all_runs(server: Server) -> list[dict[str, Any]]:
    """Return all runs of the session, the first that ended first."""
    pages: list[dict[str, Any]] = []
    cursor = ""
    while True:
        page = server.client.get(f"/v1/sessions/{SESSION}/runs?limit=50{cursor}").raise_for_status().json()
        pages += page["runs"]
        if page["next_cursor"] is None:
            return pages[::-1]
        cursor = f"&cursor={page['next_cursor']}"


def whole_history(server: Server) -> list[dict[str, Any]]:
    """Return the history with what was rolled back."""
    messages: list[dict[str, Any]] = []
    cursor = ""
    while True:
        query = f"limit=500&discarded=true{cursor}"
        page = server.client.get(f"/v1/sessions/{SESSION}/history?{query}").raise_for_status().json()
        messages = page["messages"] + messages
        if page["next_cursor"] is None:
            return messages
        cursor = f"&cursor={page['next_cursor']}"


def one_at_a_time(lines: list[Line]) -> bool:
    """Return whether no tool of one run began before all tools of the run before had ended."""
    executions: dict[str, list[int]] = {}
    for line in lines:
        if line.kind != "model":
            executions.setdefault(line.run_id, []).append(line.at_ns)
    spans = sorted((times[0], times[-1]) for times in executions.values())
    return all(before[1] <= after[0] for before, after in pairwise(spans))


def test_two_hundred_requests_of_all_policies_leave_nothing_lost_and_nothing_broken(tmp_path: Path) -> None:
    paths = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(TESTS), str(ROOT))))
    variables = {VARIABLE: str(tmp_path / "ledger.jsonl"), "PYTHONPATH": paths}
    flags = ("--max-queued-per-session", str(CLIENTS), "--cancel-grace", "0.5")
    with serving(TARGET, *flags, folder=tmp_path, variables=variables) as server:
        answers = asyncio.run(all_at_once(server))
        for number, policy in enumerate(("interrupt", "rollback")):
            server.quiet()
            answers += cut_off(server, number, policy)
        server.quiet()
        runs, history, shown = all_runs(server), whole_history(server), server.history(SESSION)
        session = server.client.get(f"/v1/sessions/{SESSION}").raise_for_status().json()

    # Each has an answer: the ended run, or (only with if_busy=reject) that the session is busy.
    assert Counter(answer.status_code for _, answer in answers).keys() == {200, 409}
    for body, answer in answers:
        assert answer.status_code == 200 or (body.get("if_busy"), answer.json()["code"]) == ("reject", "session_busy")
    answered = {answer.json()["run_id"]: answer.json() for _, answer in answers if answer.status_code == 200}
    for run in answered.values():  # (the answer may have come while something of a cancelled run still worked)
        run |= {"phase": None, "held": False}

    # No run is lost, none was made up, and a key stands for one run.
    assert {run["run_id"]: run for run in runs} == answered
    assert {run["status"] for run in runs} == ENDED
    assert (session["queue_depth"], session["running"], session["held"]) == (0, None, None)
    by_input: dict[str, set[str]] = {}
    for body, answer in answers:
        if answer.status_code == 200:
            by_input.setdefault(body["input"], set()).add(answer.json()["run_id"])
    assert all(len(run_ids) == 1 for run_ids in by_input.values())
    input_of = {run_id: said for said, run_ids in by_input.items() for run_id in run_ids}

    # Only what had begun was cancelled; what waited had its turn.
    assert all(run["started_at"] for run in runs)
    assert 1 < sum(run["status"] == "cancelled" for run in runs) < len(runs)
    assert one_at_a_time([*Reader(tmp_path / "ledger.jsonl").new()])

    # History has every run once, in the order in which they ended, and hides those that were rolled back.
    assert check_history(cast("list[Message]", history)) == []
    assert texts(history, "user") == [input_of[run["run_id"]] for run in runs]
    assert [{"role": m["role"], "content": m["content"]} for m in history if not m["discarded"]] == [
        {"role": m["role"], "content": m["content"]} for m in shown
    ]
    hidden = {text for m in history if m["discarded"] for text in texts([m], "user")}
    cancelled = {input_of[run["run_id"]] for run in runs if run["status"] == "cancelled"}
    assert hidden <= cancelled
    assert hidden
    assert cancelled - hidden
