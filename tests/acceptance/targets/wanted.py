"""An agent that does what a message says, with the tools and the form that its client wants.

- `call [[NAME, INPUT], ...]`: calls these tools in one round, and says what they returned.
- `json VALUE`: says something first, and gives VALUE when it is to give its answer a form.
- `json! VALUE`: gives it at once.
- in that form, `call` gives {"said": what it would have said}.
- `tools`: names the tools that its model is shown, and which it must call.
- `then A | B`: does A, and B once it has results.

Its own tools: `add`, `wait` (for a file in the workspace of the run: `held`), `ask` (a person).
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

from strands import Agent, ToolContext, tool
from strands.types.content import Messages
from strands.types.streaming import StreamEvent

from strandline._agents.function import Session
from strandline.testing import ScriptedModel, call, results

FORM = "structured_answer"
FORCED = "You must format the previous response as structured output."


class Obedient(ScriptedModel):
    def __init__(self) -> None:
        super().__init__(self._do)
        self.tools: list[dict[str, Any]] = []
        self.choice: Any = None

    async def stream(
        self, messages: Messages, tool_specs: Any = None, system_prompt: str | None = None, **kwargs: Any
    ) -> AsyncGenerator[StreamEvent, None]:
        self.tools, self.choice = list(tool_specs or ()), kwargs.get("tool_choice")
        async for event in super().stream(messages, tool_specs, system_prompt, **kwargs):
            yield event

    def _do(self, messages: Messages) -> Any:
        texts = [
            block["text"] for message in messages if message["role"] == "user" for block in message["content"]
            if "text" in block
        ]  # fmt: skip
        said = next((each for each in reversed(texts) if each != FORCED), "")
        what, _, rest = said.partition(" ")
        got = results(messages)
        if what in ("json", "json!"):
            is_forced = texts[-1] == FORCED or what == "json!"
            if got and not any("Validation failed" in each for each in got.values()):
                return "Here it is."
            return call(FORM, json.loads(rest)) if is_forced else "Let me think."
        if texts[-1] == FORCED:
            said_before = [block["text"] for block in messages[-2]["content"] if "text" in block]
            return call(FORM, {"said": "".join(said_before)})
        if what == "tools":
            shown = {each["name"]: each["inputSchema"]["json"] for each in self.tools}
            return json.dumps({"tools": shown, "choice": self.choice})
        if what == "then":
            first, _, second = rest.partition(" | ")
            rounds = sum("toolResult" in block for message in messages for block in message["content"])
            rest, what, got = (first, "call", {}) if not rounds else (second, "call" if rounds == 1 else "", got)
            if rounds == 1:
                got = {}
        if got:
            names = {
                block["toolUse"]["toolUseId"]: block["toolUse"]["name"]
                for message in messages
                for block in message["content"]
                if "toolUse" in block
            }
            return "got " + json.dumps([[names[each], text] for each, text in got.items()])
        if what == "call":
            return [call(name, given) for name, given in json.loads(rest)]
        return f"did {said}"


@tool
def add(a: int, b: int) -> int:
    """Add two numbers, and note that in a file.

    Args:
        a: One.
        b: The other.
    """
    return a + b


@tool(context=True)
async def count(name: str, tool_context: ToolContext) -> str:
    """Count how often this was called.

    Args:
        name: What to count.
    """
    path = Path(tool_context.invocation_state["workspace"]) / f"count-{name}"
    with path.open("a") as file:
        file.write("x")
    return str(path.stat().st_size)


@tool(context=True)
async def wait(name: str, tool_context: ToolContext) -> str:
    """Wait until a file is there.

    Args:
        name: Its name.
    """
    folder = Path(tool_context.invocation_state["workspace"])
    (folder / f"{name}-waits").touch()
    while not (folder / name).exists():
        await asyncio.sleep(0.01)
    return "there"


@tool(context=True)
def ask(text: str, tool_context: ToolContext) -> str:
    """Ask a person.

    Args:
        text: The question.
    """
    return cast(str, tool_context.interrupt("ask", reason=text))


def make_agent(session_id: str) -> Agent:
    """Make the agent of a session."""
    return Agent(model=Obedient(), tools=[add, count, wait, ask])


async def echo(message: str, session: Session) -> str:
    """Answer with what was said: a function, which can do nothing that a client wants."""
    return message
