"""What runs that join another say to its agent, and where that is in its messages. Pure."""

from collections.abc import Callable, Iterable, Sequence

from strandline._history.prompts import named_sender, prompt_message, with_sender, without_sender
from strandline._history.texts import SAID_MEANWHILE
from strandline._model import (
    Block,
    Checkpoint,
    Input,
    JoinedInput,
    Message,
    RunId,
    RunsCollected,
    RunsJoined,
    Sender,
)


def said_meanwhile(given: Input) -> list[Block]:
    """Return the blocks of one run that joined: a mark, and its input as it was sent."""
    return [{"text": SAID_MEANWHILE}, *prompt_message(given)["content"]]


def blocks_of(runs: Iterable[JoinedInput]) -> list[Block]:
    """Return the blocks of several runs, in order."""
    return [block for run in runs for block in said_meanwhile(run.input)]


def with_joined(messages: Sequence[Message], runs: Sequence[JoinedInput]) -> list[Message]:
    """Return messages with what these runs say added to the last one, or after it if that is not the user's.

    It has their sender if all that is said in it has the same.
    """
    said, before, last = blocks_of(runs), list(messages), Message(role="user", content=[])
    if before and before[-1]["role"] == "user":
        last = before.pop()
    senders = {run.sender for run in runs}
    if any("toolResult" not in block for block in last["content"]):
        senders.add(named_sender(last))
    message: Message = {**last, "content": [*last["content"], *said]}
    return [*before, with_sender(message, senders.pop()) if len(senders) == 1 else without_sender(message)]


def joined_in(checkpoints: Iterable[Checkpoint]) -> tuple[RunId, ...]:
    """Return the runs that joined, by the checkpoints of their host, in order."""
    return tuple(
        run.run_id
        for checkpoint in checkpoints
        if isinstance(checkpoint, RunsJoined | RunsCollected) and not checkpoint.ended
        for run in checkpoint.runs
    )


def with_collected(
    given: Input,
    sender: Sender | None,
    checkpoints: Iterable[Checkpoint],
    as_read: Callable[[Input, Sender | None], Input] = lambda given, sender: given,
) -> tuple[Input, Sender | None]:
    """Return a run's whole input and its sender, by its checkpoints: what runs say that were collected into it follows
    in order, each in blocks of its own, `as_read`. Several senders are none.
    """
    more = [run for each in checkpoints if isinstance(each, RunsCollected) for run in each.runs]
    if not more:
        return as_read(given, sender), sender
    said = [(given, sender), *((run.input, run.sender) for run in more)]
    blocks = [block for each, by in said for block in prompt_message(as_read(each, by))["content"]]
    return blocks, sender if all(by == sender for _, by in said) else None
