"""One attempt of a run, as its script has it: rounds of tools, questions to a person, an answer.

The run that answers a question begins in the middle of the round of the run that asked: it continues with those of its
tools that have no result, and then with its own script.
"""

import asyncio

from simulation.asking import request_id
from simulation.process import Process, alive
from simulation.record import joined_texts
from simulation.script import SECRET, Ends, Script, Tool
from strandline._agents.port import Attempt, Finished
from strandline._engine.loops import CURRENT, LiveThread
from strandline._history import Progress, prompt_message
from strandline._model import InputRequest, Message, NeedsInput, Succeeded, ToolResult
from strandline.errors import AgentFailed


class Broken(Exception):
    """What the agent's own code raises."""


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
        """The open round that it continues: the results that it has, None for tools that are to start again."""
        self._given: dict[str, int] = {}
        """How many answers each tool of that round has got."""

    def go_on(self, progress: Progress) -> None:
        """Continue in the middle of the last round, if it is open: only the tools that are to start do."""
        if progress.to_restart:
            ended = {result["toolUseId"]: result for result in progress.ended_results()}
        elif progress.takes_answers:
            ended = progress.results
        else:
            return
        requested = [block["toolUse"]["toolUseId"] for block in progress.messages[-1]["content"] if "toolUse" in block]
        self._again = {each: ended.get(each) for each in requested}
        if progress.takes_answers:
            assert progress.question_state is not None
            self._given = progress.question_state["given"]

    async def play(self, *, fresh: bool) -> Finished:
        """Play from where the last attempt was; the messages say where that is."""
        attempt, script = self._attempt, self._script
        if attempt.prompt is not None and self._again is None:
            attempt.add(prompt_message(attempt.prompt))
        if fresh and script.build_s:
            await self._wait(script.build_s)
        if fresh and script.build_fails:
            raise Broken("the agent could not be built") from AgentFailed("built badly")
        first = sum(message["role"] == "user" for message in attempt.messages) - 1
        for number in range(first, len(script.rounds)):
            if (requested := await self._round(number)) is not None:
                return Finished(ending=requested, state={"after": self._text})
        answer = f"a:{self._text}"
        await self._model(len(script.rounds), answer)
        self._say({"role": "assistant", "content": [{"text": answer}]}, answer)
        return Finished(ending=Succeeded(), state={"after": self._text})

    async def _model(self, number: int, text: str) -> None:
        """Think, and say the beginning of `text`; or whatever else happens at this place."""
        attempt, script = self._attempt, self._script
        if attempt.has_joins and attempt.messages[-1]["role"] == "user":
            await attempt.take_joins()
            alive(self._process)
        attempt.begin_model()
        self._process.note("model", self._run, heard=joined_texts(attempt.messages))
        await self._wait(script.model_s)
        attempt.add_text(text[:3])
        if number == script.at:
            if script.pause_s:
                await self._wait(script.pause_s, exactly=True)
            match script.ends:
                case Ends.RAISES if not (script.in_tool and number < len(script.rounds)):
                    raise Broken(f"{SECRET} {self._text}")
                case Ends.HANGS:
                    while True:
                        await self._wait(1000.0, exactly=True)
                case _:
                    pass
        attempt.add_text(text[3:])

    def _say(self, message: Message, text: str) -> None:
        self._process.note("said", self._run, text=text)
        self._attempt.add(message)

    def _tool_of(self, tool_use_id: str) -> Tool:
        text, number, n = tool_use_id.split(".")
        return self._process.scripts[text].rounds[int(number)][int(n)]

    async def _round(self, number: int) -> NeedsInput | None:
        """Play a round; return the question with which the run ends, if tools of it have one."""
        attempt = self._attempt
        known, self._again = self._again, None
        if known is None:
            ids = [f"{self._text}.{number}.{n}" for n in range(len(self._script.rounds[number]))]
        else:
            ids = list(known)
        tools = [self._tool_of(each) for each in ids]
        if known is None:
            text = f"r:{self._text}.{number}"
            await self._model(number, text)
            uses = [
                {"toolUse": {"toolUseId": each, "name": tool.name, "input": {}}}
                for each, tool in zip(ids, tools, strict=True)
            ]
            self._note_round(ids, tools)
            self._say({"role": "assistant", "content": [{"text": text}, *uses]}, text)
        else:
            start = [each for each in ids if known[each] is None]
            self._note_round(start, [self._tool_of(each) for each in start])
        await attempt.begin_round()
        alive(self._process)
        self._process.note("checkpointed", self._run)
        attempt.enter("tool work")
        breaks = number == self._script.at and self._script.in_tool and self._script.ends is Ends.RAISES
        working = [
            asyncio.ensure_future(self._tool(each, tool, breaks=breaks and tool is tools[-1]))
            for each, tool in zip(ids, tools, strict=True)
            if known is None or known[each] is None
        ]
        try:
            came = await asyncio.gather(*working)
        except BaseException:
            for each in working:
                each.cancel()
            raise
        alive(self._process)
        if requests := [each for each in came if isinstance(each, InputRequest)]:
            return self._requests_input(requests)
        ended = {each["toolUseId"]: each for each in came if not isinstance(each, InputRequest)}
        results = [ended.get(each) or (known or {})[each] for each in ids]
        attempt.add({"role": "user", "content": [{"toolResult": result} for result in results]})
        await attempt.end_round({"after": ids[-1]})
        alive(self._process)
        return None

    def _note_round(self, ids: list[str], tools: list[Tool]) -> None:
        self._process.note("round", self._run, ids=ids, idempotent=[tool.name == "look" for tool in tools])

    def _requests_input(self, requests: list[InputRequest]) -> NeedsInput:
        """Have the run end with a question, all of whose requests are answered together."""
        self._process.note("requests_input", self._run, requests=[each.id for each in requests])
        given = {**self._given, **{each.reason: self._given.get(each.reason, 0) + 1 for each in requests}}
        return NeedsInput(requests, {"given": given})

    async def _tool(self, tool_use_id: str, tool: Tool, *, breaks: bool) -> ToolResult | InputRequest:
        process, run = self._process, self._run
        alive(process)
        self._attempt.begin_tool(tool_use_id, tool.name, {})
        process.note("begun", run, id=tool_use_id)
        given = self._given.get(tool_use_id, 0)
        try:
            if given < tool.requests_input:
                await self._wait(tool.takes_s)
                return InputRequest(request_id(tool_use_id, given), "sure", tool_use_id)
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
            raise Broken(f"{SECRET} {tool_use_id}")
        said = f"done {tool_use_id}"
        status = "error" if tool.fails else "success"
        result: ToolResult = {"toolUseId": tool_use_id, "status": status, "content": [{"text": said}]}
        process.note("finished", run, id=tool_use_id, result=result)
        await self._attempt.end_tool(tool_use_id, result)
        return result

    async def _in_thread(self, tool_use_id: str, tool: Tool) -> None:
        """Work where no cancellation comes, as a thread does; its waiters may leave."""
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
        task = loop.create_task(work(), context=process.context())
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
