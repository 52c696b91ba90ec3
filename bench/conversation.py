"""What steering adds to a run, and what an idle server pays for schedules: `python -m bench.conversation [--quick]`.

- *Steer*: an agent calls a tool in each run. Once it has begun, and in every other run a message that steers is
  accepted, the tool is let go, and the time counts until the next call of the model begins. The message is durable in
  history before that call. Beside it the time of an accept, which is one commit as a checkpoint is.
- *Schedules*: processor time of a server without requests, with 10,000 schedules that are due within a year, and of the
  same without, in alternating turns.
"""

import argparse
import asyncio
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median, quantiles

from strands import Agent, tool
from strands.types.content import Messages

from bench.control import callers
from bench.processes import ROOT, STRANDLINE, cores, cpu_s, server
from strandline import IfBusy, Request, SessionId, SessionKey, open_service
from strandline._model import ANONYMOUS
from strandline.testing import Answer, ScriptedModel, call

AGENT = str(ROOT / "bench" / "agents" / "answering.py")


@dataclass
class Bench:
    """What the agent and the measurement share; both have one clock."""

    begun: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)
    let_go_at: float = 0.0
    called_at: float = 0.0


def steered(bench: Bench, loop: asyncio.AbstractEventLoop) -> Agent:
    """Return an agent whose tool waits in each run until it is let go."""

    async def answer(messages: Messages) -> Answer:
        now = time.perf_counter()
        if not any("toolResult" in block for block in messages[-1]["content"]):
            return [call("work")]
        bench.called_at = now
        return "Done."

    async def wait() -> None:
        bench.begun.set()
        await bench.go.wait()
        bench.let_go_at = time.perf_counter()

    @tool
    async def work() -> str:
        """Work until it is let go."""
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(wait(), loop))
        return "worked"

    return Agent(model=ScriptedModel(answer), tools=[work], callback_handler=None)


async def steer(runs: int) -> None:
    """Measure the time from a tool's end to the next model call, with a message that steers and without."""
    times: dict[str, list[float]] = {"without": [], "with": [], "accept": []}
    loop, bench = asyncio.get_running_loop(), Bench()
    key = SessionKey(ANONYMOUS, SessionId("s"))
    with tempfile.TemporaryDirectory() as folder:
        journal = f"sqlite:{Path(folder, 'journal.db')}"
        async with open_service(steered(bench, loop), journal=journal, workspace=None) as service:
            for number in range(runs * 2):
                bench.begun.clear()
                bench.go.clear()
                host = await service.submit(Request(key=key, input="go"))
                await bench.begun.wait()
                joined = None
                if number % 2:
                    began = time.perf_counter()
                    joined = await service.submit(Request(key=key, input="and be brief", if_busy=IfBusy.STEER))
                    times["accept"].append((time.perf_counter() - began) * 1000)
                bench.go.set()
                await host.outcome()
                if joined is not None:
                    await joined.outcome()
                    run = (await service.run(ANONYMOUS, joined.run_id)).run
                    assert run.join == "applied", run
                times["with" if joined else "without"].append((bench.called_at - bench.let_go_at) * 1000)
    for name, some in times.items():
        print(f"steer, {name}: p50 {median(some):.2f} ms, p90 {quantiles(some, n=10)[-1]:.2f} ms of {len(some)}")
    more = median(times["with"]) - median(times["without"])
    print(f"steer adds {more:.2f} ms, {more / median(times['accept']):.2f} of an accept")


async def plan(url: str, count: int) -> None:
    """Make schedules, 16 requests at a time."""
    async with callers(url, 16) as many:

        async def some(first: int) -> None:
            for number in range(first, count, len(many)):
                month = (number % 11 + time.localtime().tm_mon) % 12 + 1  # not this one
                cron = f"{number % 60} {number // 60 % 24} {number % 28 + 1} {month} *"
                body = {"session_id": f"s{number}", "input": "report", "cron": cron}
                status, answer = await many[first].ask("POST", "/v1/schedules", body)
                assert status == 201, answer

        await asyncio.gather(*(some(first) for first in range(len(many))))


async def idle(pid: int, seconds: float) -> float:
    """Return the share of a core that a process takes meanwhile."""
    before, began = cpu_s(pid), time.perf_counter()
    await asyncio.sleep(seconds)
    return (cpu_s(pid) - before) / (time.perf_counter() - began)


async def schedules(count: int, turns: int, seconds: float) -> None:
    """Measure idle servers."""
    core, _ = cores()
    with tempfile.TemporaryDirectory() as folder:
        settings = {"STRANDLINE_MAX_SCHEDULES_PER_CALLER": str(count)}
        options = ["--port", "0"]
        paths = [Path(folder, name) for name in ("plain.db", "planned.db")]
        commands = [[*STRANDLINE, AGENT, *options, "--journal", f"sqlite:{path}"] for path in paths]
        with (
            server(commands[0], core, Path(folder, "0.log")) as plain,
            server(commands[1], core, Path(folder, "1.log"), settings) as planned,
        ):
            began = time.perf_counter()
            await plan(planned.url, count)
            print(f"{count} schedules made in {time.perf_counter() - began:.1f} s")
            shares = []
            for _ in range(turns):
                shares.append((await idle(plain.pid, seconds), await idle(planned.pid, seconds)))
    without, with_them = (median(each) for each in zip(*shares, strict=True))
    print(f"idle, no schedule: {without:.3%} of a core; with {count} schedules: {with_them:.3%}")


def main() -> None:
    """Measure both."""
    parser = argparse.ArgumentParser(prog="python -m bench.conversation", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer runs and schedules")
    short: bool = parser.parse_args().quick
    asyncio.run(steer(50 if short else 500))
    asyncio.run(schedules(1_000 if short else 10_000, 3, 3.0 if short else 20.0))


if __name__ == "__main__":
    main()
