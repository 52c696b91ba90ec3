"""Judges what a soak has recorded: were the promises kept? Pure.

Reads the clients' ledger (`Records`) and the tools' ledger (`Line`s), and knows nothing of how runs are kept or carried
out. Returns faults, one sentence each; none if all is well.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Final

from msgspec import Struct

from soak.ledger import Line
from soak.message import LABEL, OUT_OF_ORDER, Message, read
from soak.records import ENDED, Asked, Records, Stored, View, digest
from strandline.testing.checker import check_history

UNKNOWN: Final = "The outcome of this tool call is unknown"
NOT_STARTED: Final = "This tool was not started"
EARLY: Final = "(This run ended early: {}.)"
BY_THE_SERVER: Final = frozenset({"crashed", "stopped", "timeout"})
"""How any run may end that executes while servers die, whatever its message says."""


class Rules(Struct, frozen=True, kw_only=True):
    """What the servers were told."""

    idempotent: frozenset[str] = frozenset()
    tell: bool = False
    max_attempts: int = 3


class Part(Struct, frozen=True):
    """What one run left in history: its messages, from its question on."""

    label: str
    messages: list[Any]

    @property
    def said(self) -> list[str]:
        """All texts that the assistant said, the closing one last."""
        return [b["text"] for m in self.messages if m["role"] == "assistant" for b in m["content"] if "text" in b]

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The results of its tools, by toolUseId."""
        blocks = [
            block["toolResult"] for message in self.messages for block in message["content"] if "toolResult" in block
        ]
        return {block["toolUseId"]: block for block in blocks}


class Case:
    """The records, put in order: who is who, and what each run left."""

    def __init__(self, records: Records, lines: Sequence[Line], rules: Rules) -> None:
        self.records = records
        self.lines = lines
        self.rules = rules
        self.messages: dict[str, Message] = {label: read(asked.text) for label, asked in records.asked.items()}
        self.parts: dict[str, list[Part]] = {name: parts_of(told) for name, told in records.histories.items()}
        self.stored: dict[str, list[Stored]] = defaultdict(list)
        for run in sorted(records.stored, key=lambda run: run.sequence):
            self.stored[run.session].append(run)
        self.label_of = {line.run_id: line.label for line in lines if line.run_id}
        self.label_of |= {answer.run_id: answer.label for answer in records.answered if answer.run_id}
        self.label_of |= {run_id: label for label, (run_id, _) in records.seen_waiting.items()}
        self.part_of: dict[str, Part] = {}
        for session, runs in self.stored.items():
            parts = self.parts.get(session, [])
            left = [run for run in runs if self.leaves_a_trace(run)]
            if len(left) == len(parts):
                self.part_of |= {run.run_id: part for run, part in zip(left, parts, strict=True)}

    def leaves_a_trace(self, run: Stored) -> bool:
        """Tell whether a run has to be in history: all are, but those that came to their end while they waited."""
        view = self.records.views.get(run.run_id)
        if view is None or view.ended is None:
            return True
        return view.started or view.ended.kind not in ("queue_timeout", "cancelled")


def parts_of(history: Sequence[Any]) -> list[Part]:
    """Cut a history into what each run left."""
    parts: list[Part] = []
    for message in history:
        texts = [block["text"] for block in message["content"] if "text" in block] if message["role"] == "user" else []
        if texts or not parts:
            parts.append(Part(texts[0].split()[0] if texts else "", []))
        parts[-1].messages.append(message)
    return parts


def judge(records: Records, lines: Sequence[Line], rules: Rules) -> list[str]:
    """Return everything that is wrong."""
    case = Case(records, lines, rules)
    judges = (_seen_at_once, _lost, _outcomes, _histories, _order, _starts, _alone, _tools, _ends, _exits)
    return [fault for each in judges for fault in each(case)]


def _seen_at_once(case: Case) -> Iterator[str]:
    yield from case.records.faults
    if case.records.left:
        yield f"at the end {case.records.left} runs still executed, waited or were held"


def _lost(case: Case) -> Iterator[str]:
    """Whatever was acknowledged is there, and ended; whatever was refused never happened."""
    records = case.records
    acknowledged = {line.run_id: "executed" for line in case.lines if line.run_id}
    acknowledged |= {run_id: "seen as waiting" for run_id, _ in records.seen_waiting.values()}
    acknowledged |= {answer.run_id: f"answered {answer.status_code}" for answer in records.answered if answer.run_id}
    stored = {run.run_id for run in records.stored}
    if len(stored) < len(records.stored):
        yield "a run is listed twice"
    for run_id, how in acknowledged.items():
        view = records.views.get(run_id)
        if run_id not in stored or view is None or view.status_code == 404:
            yield f"run {run_id} ({case.label_of.get(run_id)}) was {how}, and is lost"
    for run in records.stored:
        view = records.views.get(run.run_id)
        if run.status not in ENDED or view is None or view.ended is None:
            yield f"run {run.run_id} has no outcome: {run.status}"
        elif view.status != run.status:
            yield f"run {run.run_id} is shown as {view.status} and kept as {run.status}"
        if run.attempt > case.rules.max_attempts:
            yield f"run {run.run_id} had {run.attempt} attempts"
    refused = {answer.label for answer in records.answered if not answer.run_id}
    happened = {line.label for line in case.lines} | {part.label for parts in case.parts.values() for part in parts}
    for label in sorted(refused & happened):
        yield f"{label} was refused, and ran"


def _outcomes(case: Case) -> Iterator[str]:
    """A run has one outcome, whoever asks and whenever."""
    for run_id, ends in case.records.told.items():
        if len(ends) > 1:
            yield f"run {run_id} ended in more than one way: {sorted(f'{end.kind} {end.text!r}' for end in ends)}"
    for run_id, times in case.records.told_at.items():
        if len(times) > 1:
            yield f"run {run_id} ended more than once: {sorted(times)}"


def _histories(case: Case) -> Iterator[str]:
    """Histories are valid, only grow, and have each run once, in its own session."""
    places: dict[str, str] = {}
    for session, history in case.records.histories.items():
        if faults := check_history(history):
            yield f"the history of {session} is malformed: {'; '.join(faults[:3])}"
        for seen in case.records.seen.get(session, ()):
            if digest(history[: seen.count]) != seen.digest:
                yield f"the history of {session} was changed in its first {seen.count} messages"
        for part in case.parts[session]:
            asked = case.records.asked.get(part.label)
            if asked is None or LABEL.fullmatch(part.label) is None:
                yield f"the history of {session} has a question that nobody asked: {part.messages[0]}"
            elif asked.session != session or part.messages[0]["content"][0] != {"text": asked.text}:
                yield f"the question of {part.label} is told wrongly in {session}"
            if part.label in places:
                yield f"{part.label} is twice in history, in {places[part.label]} and in {session}"
            places[part.label] = session


def _order(case: Case) -> Iterator[str]:
    """Runs of a session go in the order of acceptance, as the journal tells it and as clients know it."""
    for session, runs in case.stored.items():
        left = [run for run in runs if case.leaves_a_trace(run)]
        parts = case.parts.get(session, [])
        if len(left) != len(parts):
            yield f"session {session} has {len(left)} runs, and {len(parts)} in history"
            continue
        for run, part in zip(left, parts, strict=True):
            if case.label_of.get(run.run_id, part.label) != part.label:
                yield f"in {session} {case.label_of[run.run_id]} was accepted where {part.label} stands in history"
    known = _known_accepted(case)
    for session, parts in case.parts.items():
        earliest, first = 2**63, ""
        for part in reversed(parts):
            asked = case.records.asked.get(part.label)
            if asked is not None and earliest < asked.sent_ns:
                yield f"in {session} {first} was accepted before {part.label} was sent, and comes after it"
            if known.get(part.label, 2**63) < earliest:
                earliest, first = known[part.label], part.label


def _known_accepted(case: Case) -> dict[str, int]:
    """Return, by label, when the acceptance of a run was known outside at the latest."""
    known: dict[str, int] = {}
    for line in case.lines:
        known.setdefault(line.label, line.at_ns)
    told = [(answer.label, answer.at_ns) for answer in case.records.answered if answer.run_id]
    for label, at_ns in [*told, *((label, at_ns) for label, (_, at_ns) in case.records.seen_waiting.items())]:
        known[label] = min(at_ns, known.get(label, at_ns))
    return known


def _starts(case: Case) -> Iterator[str]:
    """Runs of a session execute one after the other, in the order of history, and none comes back after the next.

    A model may be asked for the next run while the end of the one before is still being committed; if the server dies
    then, both go on in the next process. So model calls have their order within a process, and tools over all.
    """
    tools: dict[str, list[str]] = defaultdict(list)
    all_here: dict[tuple[str, int], list[str]] = defaultdict(list)
    for line in case.lines:
        if line.kind == "begin":
            _append(tools[line.session], line.label)
        if line.kind != "end":
            _append(all_here[line.session, line.pid], line.label)
    for session, order in [*tools.items(), *((session, order) for (session, _), order in all_here.items())]:
        told = [part.label for part in case.parts.get(session, []) if part.label in order]
        if order != told:
            yield f"in {session} runs executed in another order than they have in history: {_difference(order, told)}"


def _append(order: list[str], label: str) -> None:
    if not order or order[-1] != label:
        order.append(label)


def _difference(order: list[str], told: list[str]) -> str:
    place = next((n for n, (a, b) in enumerate(zip(order, told, strict=False)) if a != b), min(len(order), len(told)))
    return f"{order[place : place + 3]} and {told[place : place + 3]}"


def _alone(case: Case) -> Iterator[str]:
    """No tool of a run works while a tool of another run of its session does, in the same process."""
    working: dict[tuple[str, int], dict[str, str]] = defaultdict(dict)
    for line in case.lines:
        here = working[line.session, line.pid]
        if line.kind == "begin":
            if others := {run_id for run_id in here.values() if run_id != line.run_id}:
                yield f"in {line.session} a tool of {line.label} began while one of {', '.join(sorted(others))} worked"
            here[line.token] = line.run_id
        elif line.kind == "end":
            here.pop(line.token, None)


def _tools(case: Case) -> Iterator[str]:
    """No tool is started twice, and history tells of every one what really became of it."""
    begun: dict[tuple[str, str], list[Line]] = defaultdict(list)
    ended: dict[str, Line] = {}
    for line in case.lines:
        if line.kind == "begin":
            begun[line.run_id, line.tool_use_id].append(line)
        elif line.kind == "end":
            ended[line.token] = line
    for (run_id, tool_use_id), starts in begun.items():
        first = starts[0]
        if len(starts) > 1 and first.tool not in case.rules.idempotent:
            yield f"{first.tool} {tool_use_id} of run {run_id} ({first.label}) was started {len(starts)} times"
        if (part := case.part_of.get(run_id)) is None:
            continue  # said by others: the run is lost, or its session's history is short
        if (result := part.results.get(tool_use_id)) is None:
            yield f"{first.tool} {tool_use_id} of run {run_id} ({first.label}) was started, and is not in history"
        else:
            ends = [ended[start.token] for start in starts if start.token in ended]
            yield from _result(case, run_id, first, ends, result)
    for run_id, part in case.part_of.items():
        for tool_use_id, result in part.results.items():
            text = _text(result)
            if (run_id, tool_use_id) not in begun and not text.startswith((UNKNOWN, NOT_STARTED)):
                yield f"tool {tool_use_id} of run {run_id} ({part.label}) never started, and is told as {text!r}"


def _result(case: Case, run_id: str, first: Line, ends: list[Line], result: dict[str, Any]) -> Iterator[str]:
    text = _text(result)
    which = f"{first.tool} {first.tool_use_id} of run {run_id} ({first.label})"
    if text.startswith(UNKNOWN):
        view = case.records.views.get(run_id)
        if result["status"] != "error":
            yield f"{which} is told as unknown, and as a success"
        if ends and view is not None and view.status == "succeeded" and view.attempt == 1:
            yield f"{which} ended, and is told as unknown in a run that nothing interrupted"
        return
    true = [end for end in ends if end.token in text]
    if not true:
        what = "ended otherwise" if ends else "has no known end"
        yield f"{which} {what}, and is told as {text!r}"
    elif result["status"] != ("success" if true[0].how == "done" else "error"):
        yield f"{which} was {true[0].how}, and is told as a {result['status']}"


def _text(result: dict[str, Any]) -> str:
    return "".join(part.get("text", "") for part in result["content"])


def _ends(case: Case) -> Iterator[str]:
    """Each run ended as its message, or what was done to the servers, makes it end; history says the same."""
    for run_id, part in case.part_of.items():
        view, message = case.records.views.get(run_id), case.messages.get(part.label)
        if view is None or view.ended is None or message is None:
            continue
        for fault in _end(case.records.asked[part.label], message, view, part):
            yield f"run {run_id} ({part.label}) {fault}"


def _end(asked: Asked, message: Message, view: View, part: Part) -> Iterator[str]:
    assert view.ended is not None
    kind, text = view.ended.kind, view.ended.text
    said = part.said[-1] if part.said else ""
    if kind == "succeeded":
        results = [_text(result) for result in part.results.values()]
        if message.fails:
            yield "succeeded, though its model fails"
        elif len(results) != len(message.calls):
            yield f"succeeded with {len(results)} of {len(message.calls)} tools"
        elif not (text == said == f"{part.label}: {', '.join(results) or 'nothing done'}"):
            yield f"answered {text!r}, and {said!r} in history"
    elif kind == "agent_error":
        if not message.fails or OUT_OF_ORDER not in text:
            yield f"failed without reason: {text}"
    elif kind not in BY_THE_SERVER:
        yield f"ended as {kind}: {text}"
    elif kind == "timeout" and asked.timeout_s is None:
        yield "timed out, though it had time"
    if kind != "succeeded" and said != EARLY.format(kind):
        yield f"is {kind}, and history closes with {said!r}"


def _exits(case: Case) -> Iterator[str]:
    """Servers end when they are told to, with the exit code that this has."""
    for each in case.records.exits:
        allowed = {-9} if "KILL" in each.signals else set()
        if "TERM" in each.signals:
            allowed |= {0} if each.stage != "starting" else {0, -15}
        if each.code not in allowed:
            yield f"server {each.server}, {each.stage}, sent {each.signals or 'nothing'}, ended with {each.code}"
        for complaint in each.complaints:
            yield f"server {each.server} complained: {complaint}"
