"""What a judge looks at: the records, put in order, so that it is known which run left what.

Pure, and as ignorant of servers as the judge is.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Final

from msgspec import Struct

from judging.evidence import Limits
from soak.kept import KEPT
from soak.ledger import Line
from soak.message import Message, read, texts_of
from soak.owned import Owners
from soak.records import Deletion, Records, SentRequest, Stored

CLOCKS_S: Final = 0.01
"""By how much two readings of a clock may differ that count as the same instant."""
EXECUTES: Final = 202
LATER: Final = 2**63 - 1
AT_ONCE_S: Final = 1.0
"""How long after a server was stopped it may start runs: what it was just about to."""
UNKNOWN: Final = "The outcome of this tool call is unknown"
NOT_STARTED: Final = "This tool was not started"
NOT_ANSWERED: Final = "This tool asked a person for input and got no answer"
NOT_GIVEN: Final = "(The input that was asked for was not given.)"


class Rules(Limits, frozen=True, kw_only=True):
    """What the servers were configured with, and what clocks and busy machines may add."""

    idempotent: frozenset[str] = frozenset()
    inform: bool = False
    """Whether a run continues, and its model is informed, if a tool was at work when its server died."""
    lease_s: float | None = None
    """How long a lease is that servers hold on a database; None: one server has a file."""
    max_attempts: int = 3
    cancel_grace_s: float = 0.5
    input_timeout_s: float = 1.5
    drawn_s: float = 0.0
    """By how much later a run may have been accepted than one with a later sequence, in another session."""
    key_retention_s: float = 86_400.0
    soon_s: float = CLOCKS_S
    slack_s: float = 1.5
    drain_s: float = 1.5
    noticed_s: float = 0.25
    late_s: float = 15.0
    """(Servers are dead for a while, and machines are busy.)"""
    undisturbed_s: float = 1.0
    """(Tools of the soak take up to 2.5 s.)"""
    closed_s: float = CLOCKS_S


class Part(Struct, frozen=True):
    """What one run left in history: its messages, from its question on."""

    label: str
    messages: list[Any]

    @property
    def said(self) -> list[str]:
        """All texts that the assistant said, the closing one last."""
        return [b["text"] for m in self.messages if m["role"] == "assistant" for b in m["content"] if "text" in b]

    @property
    def tools(self) -> dict[str, str]:
        """The names of the tools that it requested, by toolUseId."""
        uses = [block["toolUse"] for message in self.messages for block in message["content"] if "toolUse" in block]
        return {use["toolUseId"]: use["name"] for use in uses}

    @property
    def joined(self) -> list[str]:
        """The labels of the messages that have joined its run, in order."""
        said = (texts_of(message)[1] for message in self.messages if message["role"] == "user")
        return [text.split()[0] for texts in said for text in texts]

    @property
    def is_open(self) -> bool:
        """Whether its last round has no results yet."""
        return any("toolUse" in block for block in self.messages[-1]["content"])

    @property
    def results(self) -> dict[str, dict[str, Any]]:
        """The results of its tools, by toolUseId."""
        blocks = [
            block["toolResult"] for message in self.messages for block in message["content"] if "toolResult" in block
        ]
        return {block["toolUseId"]: block for block in blocks}


class Case:
    """The records, put in order: who is who, and what each run left.

    A message and the answers to its questions are one *thread*, named by the label of the message: they have one part
    of history, and of tools only the thread is known that they worked for.
    """

    def __init__(self, records: Records, lines: Sequence[Line], rules: Rules) -> None:
        self.records = records
        self.lines = lines
        self.rules = rules
        self.messages: dict[str, Message] = {
            label: read(request.text) for label, request in records.requests.items() if not request.thread
        }
        self.parts: dict[str, list[Part]] = {name: parts_of(shown) for name, shown in records.histories.items()}
        self.stored: dict[str, list[Stored]] = defaultdict(list)
        for run in sorted(records.stored, key=lambda run: run.sequence):
            self.stored[run.session].append(run)
        self.label_of = {line.run_id: line.label for line in lines if line.run_id}
        self.label_of |= {answer.run_id: answer.label for answer in records.answered if answer.run_id}
        self.label_of |= {run_id: label for label, (run_id, _) in records.seen_waiting.items()}
        self.label_of |= {run_id: view.label for run_id, view in records.views.items() if view.label}
        self.label_of |= {
            each.run_id: each.label for each in records.kept.resolutions
        }  # (metadata has the first one's)
        self.known_ns = self._known_accepted()
        self.thread_of = {label: request.thread or label for label, request in records.requests.items()}
        self.thread: dict[str, list[str]] = defaultdict(list)
        """The ids of the runs of each thread, in the order of acceptance."""
        for runs in self.stored.values():
            for run in runs:
                self.thread[self._thread_of_run(run.run_id)].append(run.run_id)
        self.hidden = {
            part.label
            for session, parts in self.parts.items()
            for part, places in zip(parts, places_of(parts), strict=True)
            if not records.hidden.get(session, frozenset()).isdisjoint(places)
        }
        """The labels of messages of which something in history is hidden."""
        by_label = {part.label: part for parts in self.parts.values() for part in parts}
        self._count = Counter(part.label for parts in self.parts.values() for part in parts)
        self._count.update(label for parts in self.parts.values() for part in parts for label in part.joined)
        threads = {run_id: self._thread_of_run(run_id) for run_id in self.label_of}
        self.part_of = {run_id: by_label[thread] for run_id, thread in threads.items() if thread in by_label}

        self.owners = Owners(records.owned)
        self.untimed = self._untimed()
        """The runs whose times are unknown: a server with a clock that is off may have written some of them."""
        self.answers = {run_id for run_id, label in self.label_of.items() if self.thread_of.get(label, label) != label}
        """The runs that answer a question."""
        self.deletions: dict[str, list[Deletion]] = defaultdict(list)
        for deletion in records.deletions:
            self.deletions[deletion.session].append(deletion)
        self.gone = {label for label, request in records.requests.items() if self._may_be_deleted(request)}
        """The labels of what may have been deleted with its session."""
        self.moved = {self.label_of.get(move.run_id, "") for move in records.moves if move.status_code in (0, 200)}
        """The labels of runs that may have been moved."""
        self.starts: dict[tuple[str, str], list[Line]] = defaultdict(list)
        """By message and toolUseId: how often a tool was started."""
        for line in lines:
            if line.kind == "begin":
                own = line.label in self.gone or line.session.startswith(KEPT)  # (`again` has the same message)
                whose = line.run_id if own else line.label  # (it may have been sent again since)
                self.starts[whose, line.tool_use_id].append(line)
        self.acted = {line.run_id for line in lines if line.kind == "begin"}
        """The runs that have started a tool."""
        acted = {line.label for line in lines if line.kind == "begin"}
        self.traceless = {
            label
            for run_id, label in self.label_of.items()
            if label not in by_label and label not in acted and self._is_cancelled(run_id)
        }
        """The labels of runs that were cancelled, may have called their model, and leave no trace."""
        known = {self.label_of.get(run.run_id) for run in records.stored}
        self.never_kept = {line.label for line in lines} - acted - known
        """The labels of what asked its model while its acceptance was being committed: its server died then."""

    def _untimed(self) -> set[str]:
        off = {each.pid for each in self.records.exits if each.clock_s}
        ended = {end.run_id: end.place for end in self.records.ends}
        untimed: set[str] = set()
        for session, runs in self.stored.items() if off else ():
            requests = [request for run in runs if (request := self.request_of(run.run_id)) is not None]
            since = min((request.sent for request in requests), default=0)
            until = max(ended.get(run.run_id, LATER) for run in runs)
            if not off.isdisjoint(self.owners.during(session, since, until)):
                untimed |= {run.run_id for run in runs}
        return untimed

    def _thread_of_run(self, run_id: str) -> str:
        label = self.label_of.get(run_id, "")
        return self.thread_of.get(label, label)

    def _is_cancelled(self, run_id: str) -> bool:
        view = self.records.views.get(run_id)
        return view is not None and view.ended is not None and view.ended.kind == "cancelled"

    def _may_be_deleted(self, request: SentRequest) -> bool:
        deletions = self.deletions[request.session]
        return any(each.may_have_deleted and each.answered > request.sent for each in deletions)

    def _known_accepted(self) -> dict[str, int]:
        """Return, by label, when the acceptance of a run was known outside at the latest."""
        known: dict[str, int] = {}
        for line in self.lines:
            known.setdefault(line.label, line.at_ns)
        shown = [(answer.label, answer.at_ns) for answer in self.records.answered if answer.run_id]
        for label, at_ns in [*shown, *((label, at_ns) for label, (_, at_ns) in self.records.seen_waiting.items())]:
            known[label] = min(at_ns, known.get(label, at_ns))
        return known

    def request_of(self, run_id: str) -> SentRequest | None:
        """Return what a run was requested with, if it is known."""
        return self.records.requests.get(self.label_of.get(run_id, ""))

    def is_answered(self, label: str) -> bool:
        """Return whether an answer continues what a message has begun."""
        return any(each in self.answers for each in self.thread[label])

    def is_rolled_back(self, run_id: str) -> bool | None:
        """Return whether what a run left is hidden, None if it left nothing of its own.

        Of an answer that was rolled back only what it did itself is hidden.
        """
        part, label = self.part_of.get(run_id), self.label_of.get(run_id, "")
        return None if part is None or part.label != label or self.is_answered(label) else part.label in self.hidden

    def is_last(self, run_id: str) -> bool:
        """Return whether no other run has continued what this one has begun."""
        return self.thread[self._thread_of_run(run_id)][-1:] == [run_id]

    def parts_of(self, run_id: str) -> int | None:
        """Return how many parts of history are a run's own; None if that of an earlier run has what it left."""
        request = self.request_of(run_id)
        return (
            None if request is None or request.thread or request.session.startswith(KEPT) else self._count[request.name]
        )

    def has_checkpoints(self, run: Stored) -> bool:
        """Return whether what a run did was stored for sure before it ended, if it was cancelled.

        It may have waited again then, requeued, with nothing that it did: its server was stopped, or killed, or a
        worker struck, after it had begun; it had started no tool; nobody was answered that it executed when it was
        cancelled.
        """
        view = self.records.views.get(run.run_id)
        if view is None or not self._is_cancelled(run.run_id) or run.run_id in self.acted:
            return True
        if run.run_id in self.untimed:
            return False
        if view.begun is None or view.ended_s is None:
            return view.started
        executed = {each.run_id for each in self.records.cancels if each.status_code == EXECUTES}
        executed |= {run_id for each in self.records.sweeps for run_id in each.cancelling}
        blows = [*((blow, blow) for blow in self.records.blows), *((at.since, at.until) for at in self.records.struck)]
        requeued = any(since <= view.ended_s and view.begun <= until + AT_ONCE_S for since, until in blows)
        return not requeued or run.run_id in executed


def parts_of(history: Sequence[Any]) -> list[Part]:
    """Cut a history into what each run left."""
    parts: list[Part] = []
    for message in history:
        texts = texts_of(message)[0] if message["role"] == "user" else []
        if texts or not parts:
            parts.append(Part(texts[0].split()[0] if texts else "", []))
        parts[-1].messages.append(message)
    return parts


def places_of(parts: Sequence[Part]) -> list[range]:
    """Return where in a history each of its parts is."""
    ends = [*accumulate(len(part.messages) for part in parts)]
    return [range(end - len(part.messages), end) for part, end in zip(parts, ends, strict=True)]


def text_of(result: dict[str, Any]) -> str:
    """Return what a tool's result says."""
    return "".join(part.get("text", "") for part in result["content"])
