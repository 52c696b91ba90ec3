"""What a run has done so far, from its checkpoints, and what another attempt resumes from."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, assert_never

from msgspec import Struct
from msgspec.structs import replace

from strandline._history.blocks import distinct, not_done_result, open_tool_uses, results_for, unknown_result
from strandline._history.joins import joined_in, with_joined
from strandline._model import (
    Checkpoint,
    Message,
    Question,
    RoundDone,
    RoundStarted,
    RunId,
    RunsCollected,
    RunsJoined,
    StateRecord,
    ToolDone,
    ToolNotDone,
    ToolResult,
)
from strandline._normalize import by_id, normalize_message


class Progress(Struct, frozen=True, kw_only=True):
    """The checkpoints of a run: its messages, the results of its open round, the state at its last closed round.

    `to_restart` are the toolUseIds in the open round whose tools start again, as they are idempotent or have done
    nothing; the round then stays open, and `results` has one for each of its other tools. `not_done` are those that
    had done nothing, and who said so; until they start again, `results` has that too.

    A run that answers a question begins in the middle of a round: its first message is the one that uses, and the
    agent resumes from `question_state` with the answers. `begun` is False until a tool of that round starts again.
    """

    messages: list[Message]
    results: dict[str, ToolResult]
    state: StateRecord | None = None
    to_restart: frozenset[str] = frozenset()
    not_done: dict[str, str] = {}
    question_state: StateRecord | None = None
    begun: bool = True
    joined: tuple[RunId, ...] = ()
    """The runs that joined; what they said is in `messages`."""

    @property
    def takes_answers(self) -> bool:
        """Return whether the agent gets the answers: it has not resumed with them yet, or is to do so again."""
        return self.question_state is not None and (not self.begun or bool(self.to_restart and len(self.messages) == 1))

    def open_tools(self) -> dict[str, str]:
        """Return the tools that have begun and have no result, name by id: their outcome is unknown."""
        ended = by_id(self.results)
        uses = (
            open_tool_uses([distinct(normalize_message(message)) for message in self.messages[-1:]])
            if self.begun
            else []
        )
        return {use["toolUseId"]: use["name"] for use in uses if use["toolUseId"] not in ended}

    def ended_results(self) -> list[ToolResult]:
        """Return the results of the open round, without the tools that are `to_restart`."""
        uses = open_tool_uses([distinct(normalize_message(message)) for message in self.messages[-1:]])
        ended = [use for use in uses if use["toolUseId"] not in self.to_restart]
        return [block["toolResult"] for block in results_for(ended, by_id(self.results))]

    def messages_to_resume(self) -> list[Message]:
        """Return the messages that an attempt resumes from.

        The results close an open round, unless some of its tools are `to_restart`.
        """
        messages = [distinct(normalize_message(message)) for message in self.messages]
        if self.begun and not self.to_restart and (uses := open_tool_uses(messages)):
            messages.append({"role": "user", "content": results_for(uses, by_id(self.results))})
        return messages


def fold(checkpoints: Iterable[Checkpoint], question: Question | None = None) -> Progress:
    """Return the progress that a run's checkpoints add up to; it starts from `question` if the run answers one.

    The server may die before it stores a round's `RoundDone`. The stored results then close that round as soon as a
    later checkpoint shows that the run continued.
    """
    messages: list[Message] = [] if question is None else [question.message]
    results: dict[str, ToolResult] = {} if question is None else dict(question.results)
    state: StateRecord | None = None
    joined: tuple[RunId, ...] = ()
    begun = question is None
    not_done: dict[str, str] = {}
    for checkpoint in checkpoints:
        begun = True
        match checkpoint:
            case RoundStarted(messages=[]):
                not_done = {}  # the open round continues: its tools start again, not the round
            case RoundStarted():
                messages = [*_before(checkpoint.messages, messages, results), *checkpoint.messages]
                results, not_done = {}, {}
            case ToolDone():
                results[checkpoint.tool_use_id] = checkpoint.result
            case ToolNotDone():
                not_done[checkpoint.tool_use_id] = checkpoint.by
            case RoundDone():
                messages = [*_before(checkpoint.messages, messages, results), *checkpoint.messages]
                results, not_done = {}, {}
                state = checkpoint.state
            case RunsJoined(runs=runs):
                messages = with_joined([*_before(checkpoint.messages, messages, results), *checkpoint.messages], runs)
                joined += joined_in([checkpoint])
                results = {}
            case RunsCollected():
                joined += joined_in([checkpoint])  # (they are part of the run's input)
            case _:
                assert_never(checkpoint)
    asking = None if question is None else question.state
    return Progress(
        messages=messages,
        results={**results, **{each: not_done_result(each, by) for each, by in not_done.items()}},
        state=state,
        to_restart=frozenset(not_done),
        not_done=not_done,
        question_state=asking,
        begun=begun,
        joined=joined,
    )


def _before(added: Sequence[Message], messages: list[Message], results: Mapping[str, ToolResult]) -> list[Message]:
    """Return `messages` as they are before `added`: their open round is closed unless `added` closes it."""
    uses = open_tool_uses([distinct(normalize_message(message)) for message in messages[-1:]])
    if not uses or (added and normalize_message(added[0])["role"] == "user"):
        return messages
    return [*messages, {"role": "user", "content": results_for(uses, by_id(results))}]


def resume_point(
    progress: Progress, *, unknown_tool: Literal["fail", "resume"], idempotent_tools: Collection[str]
) -> Progress | None:
    """Return the progress that another attempt resumes from after a crash; None if the run cannot resume.

    Open tools named in `idempotent_tools` start again, under their ids. The outcome of any other open tool is unknown:
    with `resume` its result says so and the run resumes, with `fail` it cannot. Progress without an open tool is
    returned unchanged.
    """
    open_tools = progress.open_tools()
    if not open_tools:
        return progress
    again = frozenset(each for each, name in open_tools.items() if name in idempotent_tools)
    unknown = [each for each in open_tools if each not in again]
    if unknown and unknown_tool == "fail":
        return None
    return replace(
        progress,
        results={**progress.results, **{each: unknown_result(each) for each in unknown}},
        to_restart=progress.to_restart | again,
    )
