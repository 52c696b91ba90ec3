"""Tools of a client, as tools of a Strands agent for one run. The client executes them.

A call of one is an interrupt: the run ends with a question, and the client's answer is what the tool returns in the run
that continues. Providers are shown each tool's schema as its client wrote it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from strands import Agent
from strands.hooks import BeforeToolCallEvent
from strands.middleware import InvokeModelContext, InvokeModelStage
from strands.types.tools import AgentTool, ToolGenerator, ToolSpec, ToolUse

from strandline._agents.abnormal_exit import CURRENT
from strandline._agents.client_calls import CLIENT_TOOL
from strandline._model import ClientOptions, ClientTool, InputRequest

ONE_AT_A_TIME: Final = "This tool was not called: the user's program takes one call at a time. Call it again, alone."


class CalledByClient(AgentTool):
    """One tool of a client. It returns the client's answer."""

    def __init__(self, tool: ClientTool) -> None:
        super().__init__()
        self.tool = tool
        self.answers: dict[str, Any] = {}
        """By toolUseId."""

    @property
    def tool_name(self) -> str:
        """Its name."""
        return self.tool.name

    @property
    def tool_spec(self) -> ToolSpec:
        """What its model sees of it, but for its schema."""
        description = self.tool.description or self.tool.name
        return {"name": self.tool.name, "description": description, "inputSchema": {"json": {"type": "object"}}}

    @property
    def tool_type(self) -> str:
        """Its kind."""
        return "client"

    async def stream(self, tool_use: ToolUse, invocation_state: dict[str, Any], **kwargs: Any) -> ToolGenerator:
        """Return the answer of the client."""
        answer = self.answers.pop(tool_use["toolUseId"])
        content = {"text": answer} if isinstance(answer, str) else {"json": answer}
        yield {"toolUseId": tool_use["toolUseId"], "status": "success", "content": [content]}


class ClientTools:
    """The tools of one run's client. `pending` are others that the answered question has called."""

    def __init__(self, options: ClientOptions, pending: tuple[ClientTool, ...]) -> None:
        self.options = options
        offered = {each.name for each in options.tools}
        known = (*options.tools, *(each for each in pending if each.name not in offered))
        self.tools = {each.name: CalledByClient(each) for each in known}

    def clashing(self, agent: Agent) -> list[str]:
        """Return the names that tools of the agent itself have."""
        own = {name.replace("-", "_") for name in agent.tool_registry.registry}
        return sorted(name for name in self.tools if name.replace("-", "_") in own)

    @contextmanager
    def offered_to(self, agent: Agent) -> Iterator[None]:
        """Make them tools of an agent inside the `with`."""
        registry = agent.tool_registry
        for each in self.tools.values():
            registry.register_dynamic_tool(each)
        try:
            yield
        finally:
            for name in self.tools:
                registry.dynamic_tools.pop(name, None)

    def question(self, interrupt: Any) -> InputRequest | None:
        """Return the input request of an interrupt that is a call of one of them; None for any other."""
        reason = interrupt.reason
        if interrupt.name != CLIENT_TOOL or not isinstance(reason, dict) or reason.get(CLIENT_TOOL) not in self.tools:
            return None
        return InputRequest(interrupt.id, reason[CLIENT_TOOL], reason.get("input"), client_tool=True)

    def call(self, event: BeforeToolCallEvent[Any]) -> None:
        """Ask the client before one of them is executed, or give it the answer."""
        use = event.tool_use
        tool = self.tools.get(str(use["name"]))
        if tool is None or event.selected_tool is not tool:
            return
        if not self.options.parallel and use["toolUseId"] != self._first(event.agent.messages[-1]):
            event.cancel_tool = ONE_AT_A_TIME
            return
        tool.answers[use["toolUseId"]] = event.interrupt(
            CLIENT_TOOL, {CLIENT_TOOL: tool.tool.name, "input": use["input"]}
        )

    def shown(self, context: InvokeModelContext) -> InvokeModelContext:
        """Return a model call with their schemas, and with the tool that the client wants called."""
        specs = [
            {**spec, "inputSchema": {"json": self.tools[spec["name"]].tool.json_schema or {"type": "object"}}}
            if spec["name"] in self.tools
            else spec
            for spec in context.tool_specs
        ]
        choice: Any = context.tool_choice
        must_call = self.options.must_call
        if choice is None and must_call is not None:
            choice = {"tool": {"name": must_call}} if must_call else {"any": {}}
        return context.replace(tool_specs=specs, tool_choice=choice)  # type: ignore[arg-type]

    def _first(self, message: Any) -> object:
        """Return the toolUseId of the first call of one of them in a message."""
        uses = (block["toolUse"] for block in message["content"] if "toolUse" in block)
        return next((use["toolUseId"] for use in uses if use["name"] in self.tools), None)


def offer_tools(agent: Agent) -> None:
    """Have an agent take the tools of clients, whichever the current run has."""
    agent.add_hook(_on_tool, BeforeToolCallEvent)
    agent.add_middleware(InvokeModelStage.Input, _on_model)


def current_tools() -> ClientTools | None:
    """Return the tools of the current run's client."""
    exits = CURRENT.get()
    return exits.tools if exits is not None and isinstance(exits.tools, ClientTools) else None


def _on_tool(event: BeforeToolCallEvent[Any]) -> None:
    if (tools := current_tools()) is not None:
        tools.call(event)


def _on_model(context: InvokeModelContext) -> InvokeModelContext:
    tools = current_tools()
    return context if tools is None else tools.shown(context)
