"""What each protocol takes beside the run API: `python -m bench.dialects [--quick]`.

One client calls the same scripted agent (full window of 40 messages) by each protocol, in sessions of its own, whole or
as a stream. Blocks of requests take turns with blocks of the run API's same form, in changing order, and the median
over the pairs counts: how much longer a request takes, and how much more processor time of the whole server. The rows
"with tools" send five tools of the client's that nobody calls. How long a piece of text takes to be encoded is measured
without HTTP, in the same way. Wanted: at most 0.15 ms more for a run, and 10 us more for a piece.
"""

import argparse
import http.client
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final, cast
from urllib.parse import urlsplit

from rich.console import Console
from rich.table import Table

from bench.processes import ROOT, STRANDLINE, DidNotStart, cores, pinned, server
from strandline._engine.events import Numbered, TextDelta
from strandline._engine.streams import RunStream
from strandline._http.dialects.agentcore.stream import Pieces
from strandline._http.dialects.agui.stream import AgUiEvents
from strandline._http.dialects.agui.transcript import ListedMessages
from strandline._http.dialects.openai.responses.stream import ResponseEvents
from strandline._http.dialects.openai.responses.wire import AboutRun
from strandline._http.dialects.openai.stream import Chunks
from strandline._http.dialects.openai.wire import failed
from strandline._http.dialects.waiting import Waiting
from strandline._http.exchange.exchange import Frames
from strandline._http.exchange.sse import framed
from strandline._model import RunId, SessionId

AGENT: Final = str(ROOT / "bench" / "agents" / "scripted.py")
TEXT: Final = "Write a sentence about the sea."
WARM_TURNS: Final = 22
"""A turn is two messages; so many fill the window."""
RUN: Final = RunId("run_018d00000000000000000000000000")
SESSION: Final = SessionId("bench")
FUNCTIONS: Final = [
    {
        "name": f"tool_{number}",
        "description": "Does something that has to be described at some length.",
        "parameters": {"type": "object", "properties": {"what": {"type": "string"}, "how_often": {"type": "integer"}}},
    }
    for number in range(5)
]
FLAT: Final = [{"type": "function", **each} for each in FUNCTIONS]
NESTED: Final = [{"type": "function", "function": each} for each in FUNCTIONS]


@dataclass(frozen=True, slots=True)
class Plan:
    """How many pairs of blocks, of how many requests each, and of how many pieces."""

    pairs: int
    requests: int
    pieces: int


FULL: Final = Plan(pairs=60, requests=10, pieces=4000)
QUICK: Final = Plan(pairs=4, requests=5, pieces=1000)


@dataclass(frozen=True, slots=True)
class Way:
    """A way to ask: of a session and a number, the path, body and headers of a request."""

    name: str
    stream: bool
    ask: Callable[[str, int], tuple[str, Mapping[str, Any], Mapping[str, str]]]


def run_api(session: str, number: int) -> tuple[str, dict[str, Any], dict[str, str]]:
    return f"/v1/sessions/{session}/runs", {"input": TEXT}, {"Prefer": "wait=60"}


def run_api_stream(session: str, number: int) -> tuple[str, dict[str, Any], dict[str, str]]:
    return f"/v1/sessions/{session}/runs", {"input": TEXT}, {"Accept": "text/event-stream"}


def chat(session: str, number: int) -> tuple[str, dict[str, Any], dict[str, str]]:
    return "/chat", {"session_id": session, "message": TEXT}, {}


def invocations(session: str, number: int) -> tuple[str, dict[str, Any], dict[str, str]]:
    return "/invocations", {"prompt": TEXT}, {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": session.ljust(33, "-")}


def completion(**more: Any) -> Callable[[str, int], tuple[str, dict[str, Any], dict[str, str]]]:
    body = {"model": "any", "messages": [{"role": "user", "content": TEXT}], **more}
    return lambda session, number: ("/v1/chat/completions", {**body, "user": session}, {})


def response(**more: Any) -> Callable[[str, int], tuple[str, dict[str, Any], dict[str, str]]]:
    body = {"model": "any", "input": TEXT, **more}
    return lambda session, number: ("/v1/responses", {**body, "conversation": session}, {})


def agui(**more: Any) -> Callable[[str, int], tuple[str, dict[str, Any], dict[str, str]]]:
    body = {"messages": [{"id": "m", "role": "user", "content": TEXT}], **more}
    return lambda session, number: ("/agui", {**body, "threadId": session, "runId": f"{session}-{number}"}, {})


BASES: Final = {
    False: Way("run API", stream=False, ask=run_api),
    True: Way("run API, stream", stream=True, ask=run_api_stream),
}
WAYS: Final = (
    Way("/chat", stream=False, ask=chat),
    Way("AgentCore", stream=False, ask=invocations),
    Way("chat completions", stream=False, ask=completion()),
    Way("chat completions with tools", stream=False, ask=completion(tools=NESTED)),
    Way("chat completions, stream", stream=True, ask=completion(stream=True)),
    Way("responses", stream=False, ask=response()),
    Way("responses with tools", stream=False, ask=response(tools=FLAT)),
    Way("responses, stream", stream=True, ask=response(stream=True)),
    Way("AG-UI", stream=True, ask=agui()),
    Way("AG-UI with tools", stream=True, ask=agui(tools=FUNCTIONS)),
)


class Asker:
    """One client with one connection."""

    def __init__(self, url: str, pid: int) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
        self._pid = pid
        self._count = 0

    def ask(self, way: Way, session: str) -> float:
        """Send a request, and return the seconds until its answer was read. Raises `DidNotStart` for a refusal."""
        self._count += 1
        path, body, headers = way.ask(session, self._count)
        sent = json.dumps(body).encode()
        began = time.perf_counter()
        self._connection.request("POST", path, sent, {"Content-Type": "application/json", **headers})
        answer = self._connection.getresponse()
        read = answer.read()
        took = time.perf_counter() - began
        if answer.status != 200 or b"You said" not in read:
            raise DidNotStart(f"{way.name}: {answer.status} {read[:300]!r}")
        return took

    def block(self, way: Way, session: str, requests: int) -> tuple[float, float]:
        """Return the median time of some requests, and the server's processor time of each, both in seconds."""
        before = processor_s(self._pid)
        took = [self.ask(way, session) for _ in range(requests)]
        return median(took), (processor_s(self._pid) - before) / requests


def processor_s(pid: int) -> float:
    """Return the processor time of a process in seconds, to the nanosecond where the system says so; else 0."""
    try:
        tasks = [task.read_text() for task in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    except OSError:
        return 0.0
    return sum(int(each.split()[0]) for each in tasks) / 1e9


@dataclass(slots=True)
class Figures:
    """All pairs of one way, in seconds: its times, and what it took more than the run API."""

    took_s: list[float] = field(default_factory=list)
    more_s: list[float] = field(default_factory=list)
    more_cpu_s: list[float] = field(default_factory=list)


def measure(asker: Asker, plan: Plan) -> dict[str, Figures]:
    """Warm the sessions, then let each way take turns with the run API."""
    figures = {way.name: Figures() for way in WAYS}
    sessions = {way.name: f"way-{number}" for number, way in enumerate((*BASES.values(), *WAYS))}
    for way in (*BASES.values(), *WAYS):
        for _ in range(WARM_TURNS):
            asker.ask(way, sessions[way.name])
    chance = random.Random(20)
    for _ in range(plan.pairs):
        for way in chance.sample(WAYS, len(WAYS)):
            pair = [way, BASES[way.stream]]
            chance.shuffle(pair)
            came = {each.name: asker.block(each, sessions[each.name], plan.requests) for each in pair}
            (took, cpu), (base_took, base_cpu) = came[way.name], came[BASES[way.stream].name]
            figures[way.name].took_s.append(took)
            figures[way.name].more_s.append(took - base_took)
            figures[way.name].more_cpu_s.append(cpu - base_cpu)
    return figures


# -- pieces -------------------------------------------------------------------------------------------


class _Stream:
    """What the encoders need of a run's stream."""

    first = 1


def encoders() -> dict[str, Callable[[], Frames]]:
    """Return what makes an encoder of each protocol."""
    about = AboutRun(run_id=RUN, session_id=SESSION, created_at=0.0, model="any", metadata={})
    stream, later, waiting = cast(RunStream, _Stream()), failed("later", "later", RUN), Waiting({}, SESSION)
    listed = ListedMessages(b'{"messages":[]}', RUN, False)
    return {
        "chat completions": lambda: Chunks(
            RUN, SESSION, model="any", created=0, with_usage=False, waiting=waiting, later=later
        ),
        "responses": lambda: ResponseEvents(about, stream, later=later),
        "AG-UI": lambda: AgUiEvents(
            RUN, SESSION, thread_id="t", run_id="r", parent_run_id=None, listed=listed, answers=False, later="later"
        ),
        "AgentCore": lambda: Pieces(RUN, SESSION, waiting=waiting, later="later"),
    }


def pieces(plan: Plan) -> dict[str, float]:
    """Return the seconds that a piece of text takes in each protocol more than in our own, which is "run API"."""
    given = [Numbered(number, 0.0, TextDelta("some text ")) for number in range(1, plan.pieces + 1)]

    def own() -> float:
        began = time.perf_counter()
        for each in given:
            framed(each, RUN)
        return (time.perf_counter() - began) / len(given)

    def of(make: Callable[[], Frames]) -> float:
        encode = make().of
        began = time.perf_counter()
        for each in given:
            encode(each)
        return (time.perf_counter() - began) / len(given)

    took: dict[str, list[float]] = {"run API": []}
    for _ in range(plan.pairs):
        for name, make in encoders().items():
            base = own()
            took["run API"].append(base)
            took.setdefault(name, []).append(of(make) - base)
    return {name: median(each) for name, each in took.items()}


# -- the report ---------------------------------------------------------------------------------------


def report(figures: Mapping[str, Figures], took: Mapping[str, float], console: Console) -> None:
    """Print both tables."""
    table = Table("a run", "p50 ms", "more, ms", "more processor time, us")
    for name, each in figures.items():
        more_cpu = f"{median(each.more_cpu_s) * 1e6:+.0f}" if any(each.more_cpu_s) else ""
        table.add_row(name, f"{median(each.took_s) * 1000:.2f}", f"{median(each.more_s) * 1000:+.3f}", more_cpu)
    console.print(table)
    table = Table("a piece of text", "us")
    for name, piece_s in took.items():
        table.add_row(name, f"{piece_s * 1e6:.2f}" if name == "run API" else f"{piece_s * 1e6:+.2f} more")
    console.print(table)


def main() -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds; the figures say little")
    plan = QUICK if parser.parse_args().quick else FULL
    console = Console(width=100)
    core, other = cores()
    with tempfile.TemporaryDirectory() as folder, pinned(other):
        took = pieces(plan)
        command = [*STRANDLINE, AGENT, "--port", "0", "--journal", f"sqlite:{folder}/journal.db"]
        try:
            with server(command, core, Path(folder) / "server.log") as subject:
                figures = measure(Asker(subject.url, subject.pid), plan)
        except DidNotStart as error:
            console.print(f"[red]{error}[/red]", highlight=False)
            sys.exit(1)
    report(figures, took, console)


if __name__ == "__main__":
    main()
