"""The tools that have acted, or perhaps, as messages show."""

from collections.abc import Iterable, Iterator

from strandline._history.texts import NOT_DONE
from strandline._model import Message

_BEGINNING, _END = NOT_DONE.split("{by}", 1)[0], NOT_DONE.rsplit(".", 2)[-2] + "."


def acted(messages: Iterable[Message]) -> Iterator[tuple[str, str]]:
    """Yield toolUseId and name of each tool call, but of those that a person found to have done nothing."""
    calls: dict[str, str] = {}
    for message in messages:
        for block in message["content"]:
            if (use := block.get("toolUse")) is not None:
                calls[use["toolUseId"]] = use["name"]
            elif (result := block.get("toolResult")) is not None and _did_nothing(result["content"]):
                calls.pop(result["toolUseId"], None)
    yield from calls.items()


def _did_nothing(content: list[dict[str, object]]) -> bool:
    text = content[0].get("text") if len(content) == 1 else None
    return isinstance(text, str) and text.startswith(_BEGINNING) and text.endswith(_END)
