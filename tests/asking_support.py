"""A target that asks a person before it acts, and helpers to ask and answer."""

import asyncio
from typing import Any

from engine_support import NUMBERS, Played, Stubborn, key, outcome, send, texts, tool_round, tool_texts
from strandline._agents.port import Attempt, Finished, SessionAgent
from strandline._engine.admission import Ticket
from strandline._engine.requests import Request
from strandline._engine.service import Service
from strandline._history import Progress, prompt_message
from strandline._model import AgentRecord, InputRequest, NeedsInput, Outcome, RunStatus, SessionKey, Succeeded
from strandline.testing._checker import check_history


class Asking(Played):
    """Agents that ask before they act if the prompt begins with `ask`; the next words are steps of the tool then:
    `twice` asks once more, `slow` takes 100 s, `fail` raises. `later` asks when the `gate` is
    open, `leave` leaves work behind."""

    def __init__(self) -> None:
        async def nothing(attempt: Attempt) -> str:
            return ""

        super().__init__(nothing)
        self.started: list[str] = []
        self.work = Stubborn()
        self.gate = asyncio.Event()

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        self.built.append((key, record, progress))
        return AskingAgent(self, progress)


class AskingAgent:
    def __init__(self, target: Asking, progress: Progress) -> None:
        self._target = target
        self._asking = progress.question_state

    async def run(self, attempt: Attempt) -> Finished:
        if self._asking is not None:
            state, self._asking = self._asking, None
            return await self._go_on(attempt, state)
        assert isinstance(attempt.prompt, str)
        attempt.add(prompt_message(attempt.prompt))
        if not attempt.prompt.startswith("ask"):
            attempt.add({"role": "assistant", "content": [{"text": f"answer to {attempt.prompt}"}]})
            return Finished(ending=Succeeded())
        use = f"tool-{next(NUMBERS)}"
        attempt.add(tool_round("pay", use))
        await attempt.begin_round()
        if "later" in attempt.prompt:
            await self._target.gate.wait()
        if "leave" in attempt.prompt:
            self._target.work.leave()
        return self._needs_input({"use": use, "steps": attempt.prompt.split()[1:]})

    def _needs_input(self, state: dict[str, Any]) -> Finished:
        requests = [InputRequest(f"{state['use']}-{len(state['steps'])}", "sure", "really?")]
        return Finished(ending=NeedsInput(requests, state))

    async def _go_on(self, attempt: Attempt, state: dict[str, Any]) -> Finished:
        assert isinstance(attempt.prompt, list)
        given = attempt.prompt[0]["interruptResponse"]["response"]
        await attempt.begin_round()
        self._target.started.append(state["use"])
        match state["steps"]:
            case ["twice", *rest]:
                return self._needs_input({**state, "steps": rest})
            case ["slow", *_]:
                await asyncio.sleep(100)
            case ["fail", *_]:
                raise ValueError("no money")
        result = {"toolUseId": state["use"], "status": "success", "content": [{"text": f"paid: {given}"}]}
        await attempt.end_tool(state["use"], result)
        attempt.add({"role": "user", "content": [{"toolResult": result}]})
        await attempt.end_round(None)
        attempt.add({"role": "assistant", "content": [{"text": f"done: {given}"}]})
        return Finished(ending=Succeeded())

    def compact(self) -> None:
        pass


async def ask(service: Service, text: str = "ask") -> Outcome:
    end = await outcome(await send(service, text))
    assert end.status is RunStatus.NEEDS_INPUT
    return end


async def answer(service: Service, end: Outcome, given: object = "yes", **more: Any) -> Ticket:
    answers = {each.id: given for each in end.input_requests}
    return await service.submit(Request(key=key(), answers=answers, **more))


async def whole(service: Service) -> list[str]:
    """Return the texts of a history that must be one that a provider accepts, and have no pending end."""
    page = await service.history_page(key())
    assert not page.pending
    assert check_history(page.messages) == []
    return [*texts(page.messages), *tool_texts(page.messages)]
