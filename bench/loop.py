"""The limit: the agents of the benchmark called in a loop, in a process of their own, without any server.

The agents take turns, one answer each, as the sessions of a server do; with `--one-by-one` each is called again and
again before the next is, so that the processor's caches hold all that it needs. No server can have that order.

`--agent MODULE` names the module whose `make_agent` builds them.

Reads one JSON command a line from stdin and answers with one line of JSON, so that its turns can be
interleaved with those of the servers.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Callable
from importlib import import_module

import uvloop
from strands import Agent

from bench.load import MESSAGE, Load, sessions


async def _until(agent: Agent, end: float, load: Load, *, in_turn: bool) -> None:
    while (start := time.perf_counter()) < end:
        await agent.invoke_async(MESSAGE)
        load.latencies_s.append(time.perf_counter() - start)
        if in_turn:
            await asyncio.sleep(0)


async def _turns(agent: Agent, turns: int, load: Load) -> None:
    for _ in range(turns):
        await agent.invoke_async(MESSAGE)


async def _serve(make_agent: Callable[[str], Agent], *, in_turn: bool) -> None:
    agents: dict[str, Agent] = {}
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        load = Load()
        begin = time.perf_counter()
        async with asyncio.TaskGroup() as group:
            for name in sessions(command["sessions"]):
                agent = agents.setdefault(name, make_agent(name))
                if "turns" in command:
                    group.create_task(_turns(agent, command["turns"], load))
                else:
                    group.create_task(_until(agent, begin + command["seconds"], load, in_turn=in_turn))
        load.seconds = time.perf_counter() - begin
        print(json.dumps({"latencies_s": load.latencies_s, "seconds": load.seconds}), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--one-by-one", action="store_true")
    parser.add_argument("--agent", default="bench.agents.scripted")
    options = parser.parse_args()
    uvloop.run(_serve(import_module(options.agent).make_agent, in_turn=not options.one_by_one))
