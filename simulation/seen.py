"""What was seen of one run, of one attempt of it, of one request: the pieces of the judge's evidence."""

import math
from collections import Counter
from collections.abc import Iterator

from msgspec import Struct

import judging.evidence
from judging.evidence import Move, Request
from simulation.record import Event, name_in
from strandline._model import Ending, ErrorCode, Failed, Message, Run, SessionKey, ToolResult
from strandline.testing._checker import Ledger

ON_ITS_WAY_S = 0.2
"""How long an order may take to a worker, and to the loop of its agents."""


class Attempt:
    """One execution of user code, until nothing of it works or its process dies. `nth` are places in the record."""

    def __init__(self, event: Event, nth: int) -> None:
        details = event.details
        self.run, self.session, self.text = event.run, details["session"], details["text"]
        self.number, self.process = details["attempt"], details["process"]
        self.knows, self.state, self.resuming = details["knows"], details["state"], details["resuming"]
        self.answers = details["answers"]
        self.worker = details.get("worker", 0)
        self.edited = details.get("edited", "")
        """By which edit its run was edited last."""
        self.wording = details.get("wording", "")
        """By which edit its run was given its wording."""
        self.mark = details.get("mark", "")
        """What the options of its session have put into the metadata of its run."""
        self.requests_input: list[str] = []
        """The input requests that it ended with."""
        self.began_nth, self.began_at = nth, event.at
        self.ended_nth, self.ended_at = -1, -1.0
        self.how = "was cut off"
        self.crashed = False
        """Whether its process, or its worker, died at once, later."""
        self.worker_gone_at = math.inf
        """When its worker died."""
        self.stood = False
        """Whether its worker had stood still before it began."""
        self.beside_blocked = False
        """Whether it shares its loop with code that blocked it."""
        self.blocked = False
        """Whether its code blocked the loop that it shares with others."""
        self.drained = False
        self.left_nth = -1
        self.units: set[str] = set()
        """The tools and threads of it that work."""
        self.called = False
        """Whether it has called the model."""
        self.heard: list[str] = []
        """What runs had said that joined, when it last called the model."""
        self.said: list[tuple[float, str]] = []
        self.durable = 0
        """How many of `said` are durable for sure: a round was stored after them."""

    def was_on_its_way(self, at: float) -> bool:
        """Return whether its worker may have had the order to begin it before second `at`, and did so later."""
        return self.worker > 0 and (self.stood or self.began_at <= at + ON_ITS_WAY_S)

    def end(self, nth: int, at: float) -> None:
        """Note where nothing of it worked any more; the first end counts."""
        if self.ended_nth < 0:
            self.ended_nth, self.ended_at = nth, at


class Deletion(judging.evidence.Deletion, frozen=True, kw_only=True):
    """A session that was deleted by a client, or by retention."""

    sent_s: float
    at_rest: bool = False
    """Whether retention deleted it."""
    paused: bool = False
    """Whether the session was paused for sure all the while."""


class Restoration(Struct, frozen=True, kw_only=True):
    """A request to have superseded messages back. Nobody knows whether it was carried out if `answered` is -1."""

    session: SessionKey
    named: str
    sent: int
    answered: int = -1
    changed: bool = False
    """Whether they were superseded."""


class Edit(Struct, frozen=True, kw_only=True):
    """An edit of a run that waits, by its name. Nobody knows whether it was made if `answered` is -1."""

    name: str
    sent: int
    sent_s: float
    answered: int = -1
    answered_s: float = -1.0
    refused: str = ""
    """The code of the error that it was refused with."""
    priority: int | None = None
    rewords: bool = False
    """Whether it gives the run another wording."""
    expected: tuple[str, ...] = ()
    """The editions of the run that it may have."""


class Fork(Struct, kw_only=True):
    """A request for a session that begins as another one did, up to a run."""

    session: SessionKey
    after: str
    sent: int
    answered: int = -1
    answers: list[tuple[int, bool]] = []
    """How many messages it has of the other one, and whether the state of its agent is forgotten, each time."""
    refused: str = ""


class Setting(Struct, kw_only=True):
    """A change of the default options of a session. Nobody knows whether it was made if `answered` is -1."""

    session: SessionKey
    mark: str
    """What they put into the metadata of its runs from then on; "": nothing."""
    sent: int
    answered: int = -1


class Resolution(Struct, kw_only=True):
    """What somebody says of the tools of a crashed run, by the text of the run that is to continue it."""

    crashed: str
    by: str
    done: dict[str, str]
    """What each tool returned that has taken effect."""
    not_done: tuple[str, ...]
    is_whole: bool
    """Whether it names all of them, and no other."""


class ForeignStart(Struct, frozen=True):
    """A tool or a model call that was started by a process which did not own its session; owner 0 is nobody."""

    what: str
    run: str
    process: int
    owner: int


class Plan(Struct):
    """A schedule as its client made it: from `first_s` on every `every_s`, until it was to be deleted."""

    text: str
    session: SessionKey
    first_s: float
    every_s: float
    overlap: str
    missed: str
    made_s: float
    until_s: float = float("inf")


class ObservedRun:
    """All that was seen of one run."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.text = ""
        self.says = ""
        """The text in its message: that of another run if it continues that one."""
        self.accepted = False
        self.accepted_nth = -1
        self.accepted_at = -1.0
        self.position = 0
        self.joins: str | None = None
        """The run that it was to join when it was accepted."""
        self.attached = False
        """Whether it was already there when a client first had an answer."""
        self.request: Request
        self.withdrawn_nth = -1
        """When a client was answered that the question of this run is taken back."""
        self.reported_nth = -1
        """When a client was answered for the first time how it has ended."""
        self.hung_up_at: list[float] = []
        """When clients left that waited for it."""
        self.move: Move | None = None
        self.edits: dict[str, Edit] = {}
        """By name."""
        self.reported: set[tuple[str, str, str]] = set()
        self.later_nth = -1
        """When a client heard for the first time that it continues later."""
        self.missing = False
        self.cancelling = self.forced = self.too_late = False
        self.cancelling_at: list[float] = []
        self.cancelled_at: float | None = None
        self.cancelled_nth = -1
        """When a client was answered that its cancel is accepted, the first of them."""
        self.attempts: list[Attempt] = []
        self.requested: dict[str, Attempt] = {}
        self.idempotent: set[str] = set()
        self.begun: Counter[str] = Counter()
        self.finished: dict[str, tuple[int, float, ToolResult, Attempt]] = {}
        self.durable: set[str] = set()
        """The tools whose results are durable for sure."""

    @property
    def checkpointed(self) -> bool:
        """Whether anything of it is durable for sure."""
        return any(attempt.durable for attempt in self.attempts)

    def ledger(self, ending: Ending, part: list[Message], heard_until: float, *, answers: bool = False) -> Ledger:
        """Return what really happened in this run, to be compared with `part`, its history.

        What an attempt did after its last stored round may be lost with its process, and what it reports after second
        `heard_until` comes too late: such things may be missing from history, and nothing else.
        """
        crashed = isinstance(ending, Failed) and ending.code is ErrorCode.CRASHED
        unknown = set(_unknown(part))
        said: list[str] = []
        for attempt in self.attempts:
            counts = attempt is self.attempts[-1] and not crashed
            said += [
                text
                for nth, (at, text) in enumerate(attempt.said)
                if nth < attempt.durable or (counts and at < heard_until)
            ]
        unfinished = set(self.begun) - set(self.finished)
        finished = {}
        for tool, (nth, at, result, attempt) in self.finished.items():
            counts = attempt is self.attempts[-1] and not crashed and at < heard_until
            counts = counts and (attempt.left_nth < 0 or nth < attempt.left_nth)
            if tool in unknown and not counts and tool not in self.durable:
                unfinished.add(tool)
            else:
                finished[tool] = result
        # A round that was requested and not begun may be reported as unknown, or not at all.
        unfinished |= {tool for tool in self.requested if tool in unknown and tool not in finished}
        question = None if answers else self._said_in(part)
        return Ledger(ending=ending, question=question, said=said, finished=finished, unfinished=unfinished)

    def _said_in(self, part: list[Message]) -> str:
        """Return what this run says, in the wording of its part of history: see `simulation.edits`."""
        said = str(part[0]["content"][0].get("text", "")) if part else ""
        return said if name_in(said) == self.says else self.says


def _unknown(part: list[Message]) -> Iterator[str]:
    """Yield the tools whose outcome reads as unknown."""
    for message in part:
        for block in message["content"]:
            if "toolResult" in block and "unknown" in str(block["toolResult"]["content"]):
                yield block["toolResult"]["toolUseId"]


def text_of(stored: Run) -> str:
    """Return the text that a run goes by: what it asks, or what it answers to all requests of a question."""
    return str(stored.metadata["text"])
