"""A target that plays scripts, and writes down what it really did.

It reports as a session agent has to (`strandline.agents.port`): messages as they join, a round before its tools
start, each result as it comes. What it did, it writes into the record at that very moment; the judge reads nothing
else of it. Once its process is dead, it does nothing any more, whatever is called.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context
from typing import Any, Protocol

from simulation.loop import Chance
from simulation.record import Record, told
from simulation.script import Ends, Script, Tool
from strandline.agents.port import Attempt, Finished, SessionAgent
from strandline.engine.calls import CURRENT, LiveThread
from strandline.errors import AgentFailed
from strandline.history import Progress, question
from strandline.model import AgentRecord, Message, SessionKey, StateRecord, Succeeded, ToolResult


class Process(Protocol):
    """The life of one server."""

    number: int
    alive: bool
    fenced: bool
    chance: Chance
    record: Record
    scripts: dict[str, Script]

    def note(self, what: str, run: str = "", **facts: Any) -> None:
        """Write down an event."""
        ...

    def at_death(self, call: Callable[[], object]) -> None:
        """Have `call` called when the process dies."""
        ...


class Broken(Exception):
    """What the agent's own code raises."""


class Stage:
    """The target of one process."""

    exclusive = False
    external = False
    description = "a stage"

    def __init__(self, process: Process, *, opaque: bool) -> None:
        self.opaque = opaque
        self._process = process

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Make the agent of a session."""
        alive(self._process)
        await self._process.chance.pass_time(0.05)
        alive(self._process)
        return Player(self._process, key, record, progress)


def alive(process: Process) -> None:
    """End the caller if its process is dead: nothing of it may be seen any more."""
    if not process.alive:
        raise asyncio.CancelledError


class Player:
    """The agent of one session."""

    def __init__(self, process: Process, key: SessionKey, record: AgentRecord, progress: Progress) -> None:
        self._process = process
        self._key = key
        self._messages = [*record.messages]
        self._state: StateRecord = (progress.state if progress.state is not None else record.state) or {}
        self._fresh = True
        self._progress: Progress | None = progress

    async def run(self, attempt: Attempt) -> Finished:
        """Play one attempt."""
        process, run = self._process, attempt.context.run_id
        alive(process)
        text = attempt.prompt if attempt.prompt is not None else attempt.messages[0]["content"][0]["text"]
        assert isinstance(text, str)
        process.note(
            "entered",
            run,
            text=text,
            session=self._key,
            attempt=attempt.context.attempt,
            knows=told(self._messages),
            state=self._state.get("after", ""),
            going_on=len(attempt.messages),
        )
        performance = Performance(process, attempt, run, process.scripts[text], text)
        progress, self._progress = self._progress, None
        if progress is not None and progress.again:
            performance.reopen(progress)
        how = "cut"
        try:
            finished = await performance.play(fresh=self._fresh)
            how = "answered"
        except Broken:
            how = "raised"
            raise
        finally:
            if process.alive:
                process.note("left", run, session=self._key, how=how)
        self._fresh = False
        self._messages += attempt.messages
        self._state = finished.state or {}
        return finished

    def rest(self) -> None:
        """Take as little memory as possible."""


class Performance:
    """One attempt."""

    def __init__(self, process: Process, attempt: Attempt, run: str, script: Script, text: str) -> None:
        self._process = process
        self._attempt = attempt
        self._run = run
        self._script = script
        self._text = text
        self._swallows = script.swallows
        self._again: dict[str, ToolResult | None] | None = None
        """The open round of an attempt before: the results that it has, None for tools that are to start again."""

    def reopen(self, progress: Progress) -> None:
        """Go on in the middle of the last round: only the tools that are to start again do."""
        asked = [block["toolUse"]["toolUseId"] for block in progress.messages[-1]["content"] if "toolUse" in block]
        ended = {result["toolUseId"]: result for result in progress.ended()}
        self._again = {each: ended.get(each) for each in asked}

    async def play(self, *, fresh: bool) -> Finished:
        """Play from where the last attempt was; the messages say where that is."""
        attempt, script = self._attempt, self._script
        if attempt.prompt is not None:
            attempt.add(question(attempt.prompt))
        if fresh and script.build_s:
            await self._wait(script.build_s)
        if fresh and script.build_fails:
            raise Broken("the agent could not be built") from AgentFailed("built badly")
        first = sum(message["role"] == "user" for message in attempt.messages) - 1
        for number in range(first, len(script.rounds)):
            await self._round(number, script.rounds[number])
        answer = f"a:{self._text}"
        await self._model(len(script.rounds), answer)
        self._say({"role": "assistant", "content": [{"text": answer}]}, answer)
        return Finished(ending=Succeeded(), state={"after": self._text})

    async def _model(self, number: int, text: str) -> None:
        """Think, and say the beginning of `text`; or whatever else happens at this place."""
        attempt, script = self._attempt, self._script
        attempt.begin_model()
        await self._wait(script.model_s)
        attempt.add_text(text[:3])
        if number == script.at:
            if script.pause_s:
                await self._wait(script.pause_s, exactly=True)
            match script.ends:
                case Ends.RAISES if not (script.in_tool and number < len(script.rounds)):
                    raise Broken(f"secret of {self._text}")
                case Ends.HANGS:
                    while True:
                        await self._wait(1000.0, exactly=True)
                case _:
                    pass
        attempt.add_text(text[3:])

    def _say(self, message: Message, text: str) -> None:
        self._process.note("said", self._run, text=text)
        self._attempt.add(message)

    async def _round(self, number: int, tools: tuple[Tool, ...]) -> None:
        attempt = self._attempt
        ids = [f"{self._text}.{number}.{n}" for n in range(len(tools))]
        known, self._again = self._again, None
        if known is None:
            text = f"r:{self._text}.{number}"
            await self._model(number, text)
            uses = [
                {"toolUse": {"toolUseId": each, "name": tool.name, "input": {}}}
                for each, tool in zip(ids, tools, strict=True)
            ]
            self._process.note("round", self._run, ids=ids, idempotent=[tool.name == "look" for tool in tools])
            self._say({"role": "assistant", "content": [{"text": text}, *uses]}, text)
        await attempt.begin_round()
        alive(self._process)
        self._process.note("staged", self._run)
        attempt.enter("tool work")
        breaks = number == self._script.at and self._script.in_tool and self._script.ends is Ends.RAISES
        working = [
            asyncio.ensure_future(self._tool(each, tool, breaks=breaks and tool is tools[-1]))
            for each, tool in zip(ids, tools, strict=True)
            if known is None or known[each] is None
        ]
        try:
            ended = {result["toolUseId"]: result for result in await asyncio.gather(*working)}
        except BaseException:
            for each in working:
                each.cancel()
            raise
        alive(self._process)
        results = [ended.get(each) or (known or {})[each] for each in ids]
        attempt.add({"role": "user", "content": [{"toolResult": result} for result in results]})
        await attempt.end_round({"after": ids[-1]})
        alive(self._process)

    async def _tool(self, tool_use_id: str, tool: Tool, *, breaks: bool) -> ToolResult:
        process, run = self._process, self._run
        alive(process)
        self._attempt.begin_tool(tool_use_id, tool.name, {})
        process.note("begun", run, id=tool_use_id)
        try:
            if tool.in_thread:
                await self._in_thread(tool_use_id, tool)
            else:
                await self._wait(tool.takes_s)
                process.note("effect", run, id=tool_use_id)
                await self._wait(tool.takes_s)
        finally:
            if process.alive:
                process.note("rested", run, id=tool_use_id)
        if breaks:
            raise Broken(f"secret of {tool_use_id}")
        said = f"done {tool_use_id}"
        status = "error" if tool.fails else "success"
        result: ToolResult = {"toolUseId": tool_use_id, "status": status, "content": [{"text": said}]}
        process.note("finished", run, id=tool_use_id, result=result)
        await self._attempt.end_tool(tool_use_id, result)
        return result

    async def _in_thread(self, tool_use_id: str, tool: Tool) -> None:
        """Work where no cancellation comes, as a thread does; whoever waits for it may go."""
        process, call = self._process, CURRENT.get()
        assert call is not None
        thread = LiveThread("work")
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        call.enter(thread)
        process.note("thread", self._run, id=f"thread {tool_use_id}")

        async def work() -> None:
            await process.chance.pass_time(tool.takes_s)
            alive(process)
            process.note("effect", self._run, id=tool_use_id)
            await process.chance.pass_time(tool.takes_s)
            alive(process)
            process.note("rested", self._run, id=f"thread {tool_use_id}")
            call.leave(thread)
            if not done.done():
                done.set_result(None)

        # A task for the loop, and none for the engine: it counts threads and tasks by the context that they run in.
        task = loop.create_task(work(), context=Context())
        process.at_death(task.cancel)
        await done

    async def _wait(self, most_s: float, *, exactly: bool = False) -> None:
        """Let up to `most_s` seconds pass; heed the signal and swallow cancellations as the script says."""
        process = self._process
        try:
            if exactly:
                await self._heed(most_s)
            else:
                await process.chance.pass_time(most_s)
        except asyncio.CancelledError:
            if not process.alive or not self._swallows:
                raise
            self._swallows -= 1
            await self._wait(min(most_s, 1.0), exactly=exactly)
        alive(process)

    async def _heed(self, seconds: float) -> None:
        if not self._script.heeds:
            await asyncio.sleep(seconds)
            return
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while loop.time() < until and not self._attempt.signal.is_set():  # noqa: ASYNC110 - signals are polled
            await asyncio.sleep(min(0.25, max(0.0, until - loop.time())))
        if self._attempt.signal.is_set():
            raise Broken("I was asked to end")
