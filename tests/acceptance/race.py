"""The race test: several requests to one session at once, over real HTTP, against any server.

The server speaks the original contract (`POST /chat`, `GET /health`, `GET /history`) and serves an agent whose
answer repeats the question, such as `alternatives/agent.py`. Knows nothing else of what it tests.

`race(url)` sends the requests so that their order of arrival is known without sleeping: the next one leaves
when `/health` shows that the one before is inside (or it has been answered).
"""

import asyncio
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from typing import Any

import httpx

DEADLINE_S = 60.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What one request got."""

    question: str
    status_code: int
    body: dict[str, Any]

    @property
    def succeeded(self) -> bool:
        """Whether the agent answered."""
        return self.status_code == 200 and self.body.get("status") == "success"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was seen, and everything that is wrong about it."""

    answers: list[Answer]
    history: list[dict[str, Any]]
    most_waiting: int
    """The largest `queue_depth` that `/health` showed."""
    seen_processing: bool
    problems: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def __str__(self) -> str:
        return "good" if self.good else "; ".join(self.problems)


def race(
    url: str, *, n: int = 5, session_id: str | None = None, all_inside: Callable[[], None] | None = None
) -> Verdict:
    """Send `n` requests to one session at once and judge the answers, their order and the history.

    `all_inside` is called when all of them have arrived and before any answer is awaited, e.g. to open a gate
    that holds the agent. Raises `TimeoutError` when the server does not let requests in or answer them.
    """

    async def bounded() -> Verdict:
        async with asyncio.timeout(DEADLINE_S):
            return await _race(url, n, session_id or f"race-{uuid.uuid4().hex[:8]}", all_inside)

    return asyncio.run(bounded())


async def _race(url: str, n: int, session_id: str, all_inside: Callable[[], None] | None) -> Verdict:
    questions = [f"question {number} of {n} ({uuid.uuid4().hex[:8]})" for number in range(1, n + 1)]
    answers: list[Answer] = []
    depths = [0]
    processing = False

    async with httpx.AsyncClient(base_url=url, timeout=DEADLINE_S) as client:

        async def ask(question: str) -> None:
            response = await client.post("/chat", json={"message": question, "session_id": session_id})
            answers.append(Answer(question, response.status_code, response.json()))

        before = await _inside(client)
        async with asyncio.TaskGroup() as group:
            for number, question in enumerate(questions, 1):
                group.create_task(ask(question))
                while True:
                    answered = len(answers)  # (first, since an answer meanwhile would count twice)
                    health = await _health(client)
                    processing |= health["processing"]
                    depths.append(health["queue_depth"])
                    if _count(health) - before + answered >= number:
                        break
            if all_inside is not None:
                all_inside()
        reply = await client.get("/history", params={"session_id": session_id, "count": 0, **_WITH_TOOLS})
        history = reply.json()["messages"]
        answers.sort(key=lambda answer: questions.index(answer.question))
        times = [await _times(client, answer) for answer in answers]

    problems = [*_judge_answers(answers), *_judge_times(times), *judge(history, questions)]
    return Verdict(answers, history, max(depths), processing, problems)


_WITH_TOOLS = {"include_tool_messages": "true"}


async def _health(client: httpx.AsyncClient) -> dict[str, Any]:
    health: dict[str, Any] = (await client.get("/health")).json()
    return health


def _count(health: dict[str, Any]) -> int:
    return int(health["processing"]) + int(health["queue_depth"])


async def _inside(client: httpx.AsyncClient) -> int:
    return _count(await _health(client))


async def _times(client: httpx.AsyncClient, answer: Answer) -> tuple[datetime, datetime] | None:
    """Return when the run of an answer started and ended, from servers that report it.

    The arrival of an answer at its client proves nothing: two connections may swap what was sent within a moment.
    """
    if "run_id" not in answer.body:
        return None
    run = (await client.get(f"/v1/runs/{answer.body['run_id']}")).raise_for_status().json()
    return datetime.fromisoformat(run["started_at"]), datetime.fromisoformat(run["ended_at"])


# -- judging ------------------------------------------------------------------------------------------


def _judge_answers(answers: list[Answer]) -> list[str]:
    problems = []
    for number, answer in enumerate(answers, 1):
        text = str(answer.body.get("response"))
        if not answer.succeeded:
            problems.append(f"request {number} was not answered: {answer.status_code} {text!r}")
        elif answer.question not in text:
            problems.append(f"request {number} got another answer: {text!r}")
        elif any(other.question in text for other in answers if other is not answer):
            problems.append(f"the answer of request {number} holds that of another: {text!r}")
    return problems


def _judge_times(times: list[tuple[datetime, datetime] | None]) -> list[str]:
    """Each run must have started after the one before it had ended."""
    known = [time for time in times if time is not None]
    return [
        f"run {number} started at {started}, before run {number - 1} ended at {ended}"
        for number, ((_, ended), (started, _)) in enumerate(pairwise(known), 2)
        if started < ended
    ]


def judge(history: list[dict[str, Any]], questions: list[str] | None = None) -> list[str]:
    """Return what is wrong about a history: form first, then its questions and answers.

    Well formed: user and assistant take turns, the user begins, the assistant ends, and the message after one
    with toolUse blocks holds exactly their results. With `questions`: these were asked, in this order, and the
    answer after each repeats it.
    """
    problems = []
    roles = [message["role"] for message in history]
    expected = ["user", "assistant"] * (len(roles) // 2)
    if roles != expected:
        problems.append(f"roles in history do not take turns: {', '.join(roles)}")
    for place, message in enumerate(history):
        calls = sorted(block["toolUse"]["toolUseId"] for block in message["content"] if "toolUse" in block)
        after = history[place + 1]["content"] if place + 1 < len(history) else []
        given = sorted(block["toolResult"]["toolUseId"] for block in after if "toolResult" in block)
        if calls != given:
            problems.append(f"message {place} of history asks for tools {calls} and gets results for {given}")
    if questions is None:
        return problems
    talk = [text for message in history if (text := _text(message))]
    if [text for text in talk if text in questions] != questions:
        problems.append(f"questions in history are not those that were asked, in order: {talk}")
    for question in questions:
        places = [place for place, text in enumerate(talk) if text == question]
        following = talk[places[0] + 1] if places and places[0] + 1 < len(talk) else ""
        if question not in following:
            problems.append(f"in history {question!r} is followed by {following!r}")
    return problems


def _text(message: dict[str, Any]) -> str:
    return "".join(block.get("text", "") for block in message["content"])
