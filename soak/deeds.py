"""Judges what tools and models did: one run of a session at a time, in order, all of it in history.

Reads the tools' ledger against the histories. Pure; returns faults, one sentence each.
"""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

from soak.case import NOT_ANSWERED, NOT_STARTED, UNKNOWN, Case, text_of
from soak.kept import KEPT
from soak.ledger import Line


def judge_deeds(case: Case) -> Iterator[str]:
    """Yield everything that is wrong about what was done."""
    yield from _starts(case)
    yield from _tools(case)


def _starts(case: Case) -> Iterator[str]:
    """Threads of a session execute one after the other, in the order of history, and none comes back after the next.

    A model may be called for the next run while the end of the one before is still being committed; if the server dies
    then, both continue in the next process. So model calls have their order within a process, and tools over all.
    """
    tools: dict[str, list[str]] = defaultdict(list)
    all_here: dict[tuple[str, tuple[int, str]], list[str]] = defaultdict(list)
    left_out = case.traceless | case.never_kept
    for line in case.lines:
        if line.label in case.gone or line.session.startswith(KEPT) or case.owners.is_late(line):
            continue
        if line.kind == "begin":
            _append(tools[line.session], line.label)
        if line.kind != "end" and line.label not in left_out:
            _append(all_here[line.session, line.writer], line.label)
    for session, order in [*tools.items(), *((session, order) for (session, _), order in all_here.items())]:
        shown = [part.label for part in case.parts.get(session, []) if part.label in order]
        if order != shown:
            yield f"in {session} runs executed in another order than they have in history: {_difference(order, shown)}"


def _append(order: list[str], label: str) -> None:
    if not order or order[-1] != label:
        order.append(label)


def _difference(order: list[str], shown: list[str]) -> str:
    place = next((n for n, (a, b) in enumerate(zip(order, shown, strict=False)) if a != b), min(len(order), len(shown)))
    return f"{order[place : place + 3]} and {shown[place : place + 3]}"


def _tools(case: Case) -> Iterator[str]:
    """History has every tool that was started, with what really became of it."""
    ended: dict[str, Line] = {}
    for line in case.lines:
        if line.kind == "end":
            ended[line.token] = line
    for (_, tool_use_id), starts in case.starts.items():
        first, run_id = starts[0], starts[-1].run_id
        if (part := case.part_of.get(run_id)) is None:
            continue  # said by others: the run is lost, or its session's history is short
        if (result := part.results.get(tool_use_id)) is None:
            if part.is_open:
                continue  # its result comes with the others of its round
            yield f"{first.tool} {tool_use_id} of run {run_id} ({first.label}) was started, and is not in history"
        else:
            ends = [ended[start.token] for start in starts if start.token in ended]
            yield from _result(case, run_id, first, ends, result)
    for run_id, part in case.part_of.items():
        for tool_use_id, result in part.results.items():
            text = text_of(result)
            if (part.label, tool_use_id) not in case.starts and not text.startswith(
                (UNKNOWN, NOT_STARTED, NOT_ANSWERED)
            ):
                yield f"tool {tool_use_id} of run {run_id} ({part.label}) never started, and reads as {text!r}"


def _result(case: Case, run_id: str, first: Line, ends: list[Line], result: dict[str, Any]) -> Iterator[str]:
    text = text_of(result)
    which = f"{first.tool} {first.tool_use_id} of run {run_id} ({first.label})"
    if text.startswith(UNKNOWN):
        view = case.records.views.get(run_id)
        if result["status"] != "error":
            yield f"{which} reads as unknown, and as a success"
        if ends and view is not None and view.status == "succeeded" and view.attempt == 1:
            yield f"{which} ended, and reads as unknown in a run that nothing interrupted"
        return
    true = [end for end in ends if end.token in text]
    if not true:
        what = "ended otherwise" if ends else "has no known end"
        yield f"{which} {what}, and reads as {text!r}"
    elif result["status"] != ("success" if true[0].how == "done" else "error"):
        yield f"{which} was {true[0].how}, and reads as a {result['status']}"
