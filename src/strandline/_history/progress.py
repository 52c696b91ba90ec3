"""What a run has done so far, from what is staged of it, and what another attempt goes on from."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from strandline._history.blocks import answers_to, asked_for, distinct, unknown_result
from strandline._model import Checkpoint, Message, Question, RoundDone, RoundStarted, StateRecord, ToolDone, ToolResult
from strandline._normalize import by_id, normalize_message


class Progress(Struct, frozen=True, kw_only=True):
    """What is staged of a run: its messages, the results of its open round, the state at its last closed round.

    `again` are the toolUseIds of the open round whose tools are to be started again (they are idempotent); the open
    round stays open then, and `results` has one for each of its other tools.

    A run that answers a question begins in the middle of a round: its first message is that of the run that asked, and
    `asking` the state that the agent goes on from with the answers. `begun` False: no tool of it was started since.
    """

    messages: list[Message]
    results: dict[str, ToolResult]
    state: StateRecord | None = None
    again: frozenset[str] = frozenset()
    asking: StateRecord | None = None
    begun: bool = True

    @property
    def takes_answers(self) -> bool:
        """Return whether the agent is to be given the answers: it has not gone on with them yet, or is to do so
        again."""
        return self.asking is not None and (not self.begun or bool(self.again and len(self.messages) == 1))

    def open_tools(self) -> dict[str, str]:
        """Return the tools that have begun and have no result, name by id: what they did is not known."""
        ended = by_id(self.results)
        asked = (
            asked_for([distinct(normalize_message(message)) for message in self.messages[-1:]]) if self.begun else []
        )
        return {use["toolUseId"]: use["name"] for use in asked if use["toolUseId"] not in ended}

    def ended(self) -> list[ToolResult]:
        """Return the results of the open round, but of the tools that are to be started `again`."""
        asked = asked_for([distinct(normalize_message(message)) for message in self.messages[-1:]])
        ended = [use for use in asked if use["toolUseId"] not in self.again]
        return [block["toolResult"] for block in answers_to(ended, by_id(self.results))]

    def to_go_on(self) -> list[Message]:
        """Return the messages that an attempt goes on from.

        An open round is closed by the results that it has, unless tools of it are started `again`.
        """
        messages = [distinct(normalize_message(message)) for message in self.messages]
        if self.begun and not self.again and (asked := asked_for(messages)):
            messages.append({"role": "user", "content": answers_to(asked, by_id(self.results))})
        return messages


def fold(checkpoints: Iterable[Checkpoint], question: Question | None = None) -> Progress:
    """Return what the facts of a run add up to, which goes on from `question` if it answers one.

    A round whose `RoundDone` was never staged (the server ended before it) is closed by what was staged of it as
    soon as a later fact shows that the run went on.
    """
    messages: list[Message] = [] if question is None else [question.message]
    results: dict[str, ToolResult] = {} if question is None else dict(question.results)
    state: StateRecord | None = None
    begun = question is None
    for checkpoint in checkpoints:
        begun = True
        match checkpoint:
            case RoundStarted(messages=[]):
                pass  # the open round goes on: it is the tools that start again, not the round
            case RoundStarted():
                messages = [*_before(checkpoint.messages, messages, results), *checkpoint.messages]
                results = {}
            case ToolDone():
                results[checkpoint.tool_use_id] = checkpoint.result
            case RoundDone():
                messages = [*_before(checkpoint.messages, messages, results), *checkpoint.messages]
                results = {}
                state = checkpoint.state
            case _:
                assert_never(checkpoint)
    asking = None if question is None else question.state
    return Progress(messages=messages, results=results, state=state, asking=asking, begun=begun)


def _before(added: Sequence[Message], messages: list[Message], results: Mapping[str, ToolResult]) -> list[Message]:
    """Return `messages` as they stand before `added`: their open round is closed unless `added` closes it."""
    asked = asked_for([distinct(normalize_message(message)) for message in messages[-1:]])
    if not asked or (added and normalize_message(added[0])["role"] == "user"):
        return messages
    return [*messages, {"role": "user", "content": answers_to(asked, by_id(results))}]


def reopened(
    progress: Progress, *, unknown_tool: Literal["fail", "tell"], idempotent_tools: Collection[str]
) -> Progress | None:
    """Return what another attempt goes on from after the process died; None if the run cannot go on.

    Open tools named in `idempotent_tools` are to be started `again`, under their ids. Of any other open tool nobody
    knows what it did: with `tell` its result says so and the run goes on, with `fail` there is no way on. A progress
    without an open tool comes back as it is.
    """
    open_tools = progress.open_tools()
    if not open_tools:
        return progress
    again = frozenset(each for each, name in open_tools.items() if name in idempotent_tools)
    unknown = [each for each in open_tools if each not in again]
    if unknown and unknown_tool == "fail":
        return None
    return replace(
        progress, results={**progress.results, **{each: unknown_result(each) for each in unknown}}, again=again
    )
