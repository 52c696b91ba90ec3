"""`ScriptedModel`: a model for Strands agents that answers from a script.

It needs no network, no key and almost no time, and streams the same events as a real provider (Amazon Bedrock's
ConverseStream, to which Strands translates all providers). A script is a function of the conversation, so one model
serves any number of agents, and a restarted run gets the same answers. Knows nothing of Strandline.

    def script(messages):
        if results(messages):
            return "It is sunny."
        return [say("Let me look. "), call("weather", {"city": "Rome"})]

    agent = Agent(model=ScriptedModel(script), tools=[weather], callback_handler=None)
"""

import hashlib
import inspect
import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel
from strands import ModelRetryStrategy
from strands.models.model import Model
from strands.types.content import Messages
from strands.types.event_loop import StopReason
from strands.types.streaming import StreamEvent

Block = dict[str, Any]
"""A block of an assistant's message, with the key `text`, `toolUse` or `reasoningContent`."""


class Waitable(Protocol):
    """A gate for a model: `strandline.testing.Gate`, an `asyncio.Event`, ..."""

    async def wait(self) -> object:
        """Return when the model may continue."""
        ...


@dataclass(frozen=True, slots=True)
class Pause:
    """The model waits here until `gate.wait()` returns; the parts before it have been streamed."""

    gate: Waitable


@dataclass(frozen=True, slots=True)
class Stop:
    """The model stops here for `reason`."""

    reason: StopReason


Item = str | Block | Pause | Stop | Exception
"""A part of an answer. An exception breaks the stream at its place."""

Answer = Item | Sequence[Item]
"""What a model call answers: one part, or several in their order."""

Script = Callable[[Messages], Answer | Awaitable[Answer]]
"""Decides what the model answers to a conversation."""

T = TypeVar("T", bound=BaseModel)


# -- answers of a script ------------------------------------------------------------------------------


def say(text: str) -> Block:
    """Make a text block."""
    return {"text": text}


def think(text: str) -> Block:
    """Make a block of reasoning."""
    return {"reasoningContent": {"reasoningText": {"text": text}}}


def call(name: str, input: Any = None, tool_use_id: str | None = None) -> Block:  # noqa: A002
    """Make a request to run the tool `name`.

    Without a `tool_use_id` the model derives one from the conversation and the position in the answer: the same call in
    the same conversation always gets the same id, a later one a different id.
    """
    use: Block = {"name": name, "input": {} if input is None else input}
    if tool_use_id is not None:
        use["toolUseId"] = tool_use_id
    return {"toolUse": use}


def pause(gate: Waitable) -> Pause:
    """Make the model wait here, in the middle of its stream, until the gate opens."""
    return Pause(gate)


def stop(reason: StopReason) -> Stop:
    """End the answer with another stop reason than `end_turn` or `tool_use`, such as `max_tokens`."""
    return Stop(reason)


def in_turn(*answers: Answer | Exception) -> Script:
    """Make a script with one answer per model call; exceptions are raised.

    Raises `AssertionError` after the last one. It counts calls, so use it for one conversation.
    """
    left = list(answers)

    def script(messages: Messages) -> Answer:
        if not left:
            raise AssertionError("the scripted model was called more often than it has answers")
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    return script


# -- helpers to read a conversation -------------------------------------------------------------------


def question(messages: Messages) -> str:
    """Return the text of the last user message with text: the user's question."""
    for message in reversed(messages):
        if message["role"] == "user":
            texts = [block["text"] for block in message["content"] if "text" in block]
            if texts:
                return "".join(texts)
    return ""


def results(messages: Messages) -> dict[str, str]:
    """Return the texts of the latest tool results, by toolUseId."""
    if not messages or messages[-1]["role"] != "user":
        return {}
    found: dict[str, str] = {}
    for block in messages[-1]["content"]:
        if "toolResult" in block:
            result = block["toolResult"]
            parts = (part["text"] if "text" in part else json.dumps(part.get("json")) for part in result["content"])
            found[result["toolUseId"]] = "".join(parts)
    return found


# -- the model ----------------------------------------------------------------------------------------


class ScriptedModel(Model):
    """A Strands model that answers with the result of `script(messages)`.

    The script is called once per model call with a copy of the messages, and may be async. It returns a text, a block,
    or a sequence of texts, blocks, `pause(...)`, `stop(...)` and exceptions; an exception that it raises is the
    provider's failure. Texts are streamed `chunk_size` characters at a time, or in one piece if it is None. Usage
    counts messages as input tokens and chunks as output tokens.

    One object may be shared by any number of agents, threads and event loops.
    """

    def __init__(self, script: Script, *, chunk_size: int | None = 16, model_id: str = "scripted") -> None:
        if chunk_size is not None and chunk_size < 1:
            raise ValueError("chunk_size must be at least 1, or None")
        self._script = script
        self._chunk_size = chunk_size
        self._config: dict[str, Any] = {"model_id": model_id}
        self.calls = 0
        """The number of model calls."""

    def update_config(self, **model_config: Any) -> None:
        """Change the configuration that `get_config` returns; nothing else depends on it."""
        self._config.update(model_config)

    def get_config(self) -> dict[str, Any]:
        """Return the configuration: `model_id` and updates."""
        return self._config

    async def stream(
        self,
        messages: Messages,
        tool_specs: object = None,
        system_prompt: str | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[StreamEvent, None]:
        """Stream one answer of the script as ConverseStream events. Raises the script's exceptions."""
        self.calls += 1
        answer = await self._answer(messages, tool_specs, kwargs.get("tool_choice"))
        yield {"messageStart": {"role": "assistant"}}
        reason: StopReason = "end_turn"
        index = chunks = 0
        for item in answer if isinstance(answer, Sequence) and not isinstance(answer, str) else [answer]:
            match item:
                case Pause(gate):
                    await gate.wait()
                    continue
                case Stop(other):
                    reason = other
                    break
                case Exception():
                    raise item
                case _:
                    block = say(item) if isinstance(item, str) else item
            start: dict[str, Any] = {}
            if "toolUse" in block:
                reason = "tool_use"
                use = block["toolUse"]
                use_id = use.get("toolUseId") or _tool_use_id(use["name"], messages, index)
                start = {"toolUse": {"toolUseId": use_id, "name": use["name"]}}
            yield cast(StreamEvent, {"contentBlockStart": {"contentBlockIndex": index, "start": start}})
            for delta in self._deltas(block):
                chunks += 1
                yield cast(StreamEvent, {"contentBlockDelta": {"contentBlockIndex": index, "delta": delta}})
            yield {"contentBlockStop": {"contentBlockIndex": index}}
            index += 1
        yield {"messageStop": {"stopReason": reason}}
        tokens = len(messages)
        usage = {"inputTokens": tokens, "outputTokens": chunks, "totalTokens": tokens + chunks}
        yield cast(StreamEvent, {"metadata": {"usage": usage, "metrics": {"latencyMs": 0}}})

    async def structured_output(
        self,
        output_model: type[T],
        prompt: Messages,
        system_prompt: str | None = None,
        **kwargs: Any,
    ) -> AsyncGenerator[dict[str, T | Any], None]:
        """Yield the script's text, which must be JSON, as an instance of `output_model`."""
        self.calls += 1
        answer = await self._answer(prompt, None)
        if not isinstance(answer, str):
            raise TypeError("structured output needs a script that returns a str of JSON")
        yield {"output": output_model.model_validate_json(answer)}

    async def _answer(self, messages: Messages, tool_specs: object, tool_choice: object = None) -> Answer:
        """Call the script, which gets neither the tools nor the one that it must call."""
        answer = self._script(messages)
        if inspect.isawaitable(answer):
            return await answer
        return answer

    def _deltas(self, block: Block) -> Iterable[Block]:
        if "text" in block:
            return ({"text": piece} for piece in self._pieces(block["text"]))
        if "toolUse" in block:
            # In two pieces, as providers split JSON anywhere.
            text = json.dumps(block["toolUse"]["input"])
            half = len(text) // 2
            return ({"toolUse": {"input": piece}} for piece in (text[:half], text[half:]))
        if "reasoningContent" in block:
            text = block["reasoningContent"]["reasoningText"]["text"]
            return ({"reasoningContent": {"text": piece}} for piece in self._pieces(text))
        raise TypeError(f"a scripted model cannot say a block of {', '.join(block) or 'nothing'}")

    def _pieces(self, text: str) -> Iterable[str]:
        size = self._chunk_size
        if size is None or len(text) <= size:
            return (text,)
        return (text[at : at + size] for at in range(0, len(text), size))


def _tool_use_id(name: str, messages: Messages, index: int) -> str:
    """Derive an id from the whole conversation; a count would repeat after a window has slid."""
    text = json.dumps([messages, index], sort_keys=True, default=repr)
    return f"{name}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def fast_retries(*, max_attempts: int = 3, delay_s: int = 0) -> ModelRetryStrategy:
    """Return a retry strategy for one agent that does not wait; the default one sleeps for two minutes."""
    return ModelRetryStrategy(max_attempts=max_attempts, initial_delay=delay_s, max_delay=delay_s)
