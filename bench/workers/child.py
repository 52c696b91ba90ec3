"""A worker: `python -m bench.workers.child FD TARGET`. The agents of its sessions, and nothing that has to last."""

import asyncio
import gc
import os
import socket
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgspec
import uvloop

from bench.workers.wire import Channel
from strandline.agents.load import load_target
from strandline.agents.port import RunContext, RunStopped, SessionAgent
from strandline.engine.loops import Flag
from strandline.history import Progress
from strandline.model import AgentRecord, Input, Message, SessionKey, StateRecord, ToolResult

TOUCH_EVERY_S = 0.1


class RemoteAttempt:
    """`strandline.agents.port.Attempt` in a worker: each report goes over."""

    def __init__(
        self, number: int, context: RunContext, prompt: Input | None, messages: list[Message], channel: Channel
    ) -> None:
        self.context = context
        self.prompt = prompt
        self.signal = Flag()
        self.ack: asyncio.Future[bool] | None = None
        self.task: asyncio.Task[None] | None = None
        self._messages = messages
        self._contents = [message["content"] for message in messages]
        self._number = number
        self._channel = channel
        self._told = 0.0

    @property
    def messages(self) -> Sequence[Message]:
        return self._messages

    def amended(self) -> list[tuple[int, Message]]:
        """Return the messages whose content was replaced after they were told."""
        pairs = enumerate(zip(self._messages, self._contents, strict=True))
        return [(index, message) for index, (message, told) in pairs if message["content"] is not told]

    def _say(self, kind: str, *report: Any) -> None:
        self._channel.say(kind, self._number, *report)

    def add(self, message: Message) -> None:
        self._messages.append(message)
        self._contents.append(message["content"])
        self._say("add", message)

    def add_text(self, delta: str) -> None:
        self._say("add_text", delta)

    def add_reasoning(self, delta: str) -> None:
        self._say("add_reasoning", delta)

    def reset_text(self) -> None:
        self._say("reset_text")

    def begin_model(self) -> None:
        self._say("begin_model")

    def add_usage(self, tokens: dict[str, int]) -> None:
        self._say("add_usage", tokens)

    def enter(self, phase: str) -> None:
        self._say("enter", phase)

    def begin_tool(self, tool_use_id: str, name: str, given: object) -> None:
        self._say("begin_tool", tool_use_id, name, given)

    def tell_tool(self, tool_use_id: str, result: ToolResult) -> None:
        self._say("tell_tool", tool_use_id, result)

    def touch(self) -> None:
        if (now := time.monotonic()) > self._told + TOUCH_EVERY_S:
            self._told = now
            self._say("touch")

    async def begin_round(self) -> None:
        self.ack = asyncio.get_running_loop().create_future()
        self._say("begin_round")
        if not await self.ack:
            raise RunStopped

    async def end_tool(self, tool_use_id: str, result: ToolResult) -> None:
        self._say("end_tool", tool_use_id, result)

    async def end_round(self, state: StateRecord | None) -> None:
        self._say("end_round", state)


class Worker:
    """All of one worker."""

    def __init__(self, target: str) -> None:
        self._target = load_target(target)
        self._agents: dict[int, SessionAgent] = {}
        self._runs: dict[int, RemoteAttempt] = {}
        self._gone = asyncio.Event()
        self._channel = Channel(self._take, self._gone.set)

    async def serve(self, fd: int) -> None:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(ThreadPoolExecutor(64))
        await loop.create_connection(lambda: self._channel, sock=socket.socket(fileno=fd))
        gc.freeze()
        self._channel.say("ready", os.getpid())
        await self._gone.wait()

    def _take(self, report: list[Any]) -> None:
        match report:
            case ["run", int(number), int(agent), prompt, messages, context, key, record, progress]:
                attempt = RemoteAttempt(number, msgspec.convert(context, RunContext), prompt, messages, self._channel)
                self._runs[number] = attempt
                attempt.task = asyncio.create_task(self._run(number, attempt, agent, key, record, progress))
            case ["ack", int(number), bool(go_on)]:
                if (run := self._runs.get(number)) is not None and run.ack is not None and not run.ack.done():
                    run.ack.set_result(go_on)
            case ["signal", int(number)] if number in self._runs:
                self._runs[number].signal.set()
            case ["cancel", int(number)] if number in self._runs:
                task = self._runs[number].task
                assert task is not None
                task.cancel()
            case ["rest", int(agent)] if agent in self._agents:
                self._agents[agent].rest()
            case ["drop", int(agent)]:
                self._agents.pop(agent, None)

    async def _run(self, number: int, attempt: RemoteAttempt, which: int, key: Any, record: Any, progress: Any) -> None:
        try:
            agent = self._agents.get(which)
            if agent is None:
                agent = self._agents[which] = await self._target.build(
                    SessionKey(*key), msgspec.convert(record, AgentRecord), msgspec.convert(progress, Progress)
                )
            finished = await agent.run(attempt)
            self._channel.say("finished", number, finished, attempt.amended())
        except BaseException as error:
            self._agents.pop(which, None)
            while error.__cause__ is not None:
                error = error.__cause__
            self._channel.say("failed", number, f"{type(error).__name__}: {error}")
        finally:
            del self._runs[number]


async def main() -> None:
    """Serve until the other end is closed."""
    await Worker(sys.argv[2]).serve(int(sys.argv[1]))


if __name__ == "__main__":
    uvloop.run(main())
