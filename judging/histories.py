"""Histories are what a provider accepts, and only grow."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from judging.evidence import Evidence
from strandline.testing._checker import check_history

TO_COME = "to come"
Use = dict[str, Any]


def grown(evidence: Evidence) -> Iterator[str]:
    """Yield the histories that were shown otherwise than they are in the end."""
    for view in evidence.views:
        deleted = any(
            each.session == view.session and (each.answered < 0 or each.answered > view.place)
            for each in evidence.deletions
        )
        if not view.is_beginning and not deleted:
            yield f"the history of {view.session} was changed in its first {view.count} messages"


def malformed(history: Sequence[Any], requests_input: Callable[[Use], bool]) -> list[str]:
    """Return what a provider would refuse; a round at the end that waits for input counts as closed."""
    return check_history([*history, *_closing(history, requests_input)])


def open_uses(history: Sequence[Any]) -> list[Use]:
    """Return the tool uses in the last message: those of a round that is open."""
    last = history[-1] if history else {"content": []}
    return [block["toolUse"] for block in last["content"] if "toolUse" in block]


def _closing(history: Sequence[Any], requests_input: Callable[[Use], bool]) -> list[Any]:
    uses = open_uses(history)
    if not any(map(requests_input, uses)):
        return []
    results = [
        {"toolResult": {"toolUseId": use["toolUseId"], "status": "success", "content": [{"text": TO_COME}]}}
        for use in uses
    ]
    return [{"role": "user", "content": results}, {"role": "assistant", "content": [{"text": TO_COME}]}]
