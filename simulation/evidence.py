"""What was seen in a life, put in order for the judge: by run, by attempt, by session."""

from collections import Counter, defaultdict
from collections.abc import Iterator

from simulation.life import Life
from simulation.record import Event, told
from strandline.model import Ending, ErrorCode, Failed, IfBusy, Message, Outcome, SessionKey, ToolResult
from strandline.testing.checker import Ledger


class Attempt:
    """One execution of user code, until nothing of it works or its process dies. `nth` are places in the record."""

    def __init__(self, event: Event, nth: int) -> None:
        facts = event.facts
        self.run, self.session, self.text = event.run, facts["session"], facts["text"]
        self.number, self.process = facts["attempt"], facts["process"]
        self.knows, self.state, self.going_on = facts["knows"], facts["state"], facts["going_on"]
        self.began_nth, self.began_at = nth, event.at
        self.ended_nth, self.ended_at = -1, -1.0
        self.how = "was cut off"
        self.crashed = False
        """Whether its process died at once, later."""
        self.drained = False
        self.left_nth = -1
        self.units: set[str] = set()
        """The tools and threads of it that work."""
        self.said: list[tuple[float, str]] = []
        self.kept = 0
        """How many of `said` are durable for sure: a round was staged after them."""

    def end(self, nth: int, at: float) -> None:
        """Note where nothing of it worked any more; the first end counts."""
        if self.ended_nth < 0:
            self.ended_nth, self.ended_at = nth, at


class RunEvidence:
    """All that was seen of one run."""

    def __init__(self, run_id: str) -> None:
        self.id = run_id
        self.text = ""
        self.accepted = False
        self.accepted_nth = self.asked_nth = -1
        self.position = 0
        self.told: set[tuple[str, str, str]] = set()
        self.later = self.missing = False
        self.cancelling = self.forced = self.too_late = self.moved = False
        self.cancelled_at: float | None = None
        """When a client was told that its cancel is accepted."""
        self.lost = False
        """Whether a claim on it was lost: what its agent did with that claim counts for nothing, and had no effect."""
        self.attempts: list[Attempt] = []
        self.asked: dict[str, Attempt] = {}
        self.idempotent: set[str] = set()
        self.begun: Counter[str] = Counter()
        self.finished: dict[str, tuple[int, float, ToolResult, Attempt]] = {}
        self.kept: set[str] = set()
        """The tools whose results are durable for sure."""
        self.if_busy = IfBusy.ENQUEUE
        self.limits: dict[str, float] = {}
        """What the client asked for: `timeout_s`, `queue_timeout_s`."""

    def ledger(self, ending: Ending, part: list[Message], heard_until: float) -> Ledger:
        """Return what really happened in this run, to be compared with `part`, which is told of it.

        What an attempt did after its last staged round may be lost with its process, and what it reports after second
        `heard_until` comes too late: of such things less may be told, but nothing else.
        """
        crashed = isinstance(ending, Failed) and ending.code is ErrorCode.CRASHED
        unknown = set(_unknown(part))
        said: list[str] = []
        for attempt in self.attempts:
            counts = attempt is self.attempts[-1] and not crashed and not self.lost
            said += [
                text
                for nth, (at, text) in enumerate(attempt.said)
                if nth < attempt.kept or (counts and at < heard_until)
            ]
        unfinished = set(self.begun) - set(self.finished)
        finished = {}
        for tool, (nth, at, result, attempt) in self.finished.items():
            counts = attempt is self.attempts[-1] and not crashed and at < heard_until
            counts = counts and (attempt.left_nth < 0 or nth < attempt.left_nth)
            if tool in unknown and not counts and tool not in self.kept:
                unfinished.add(tool)
            else:
                finished[tool] = result
        # A round that was asked for and not begun may be told as unknown, or not at all.
        unfinished |= {tool for tool in self.asked if tool in unknown and tool not in finished}
        if isinstance(ending, Failed) and "secret" not in ending.detail:
            ending = Failed(ending.code)
        return Ledger(ending=ending, question=self.text, said=said, finished=finished, unfinished=unfinished)


def _unknown(part: list[Message]) -> Iterator[str]:
    """Yield the tools whose outcome is told as unknown."""
    for message in part:
        for block in message["content"]:
            if "toolResult" in block and "unknown" in str(block["toolResult"]["content"]):
                yield block["toolResult"]["toolUseId"]


class Evidence:
    """The record of a life, sorted."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.runs: dict[str, RunEvidence] = {}
        self.refused: dict[str, str] = {}
        self.crashes: list[int] = []
        self.drains: list[tuple[int, float, bool]] = []
        self.by_session: dict[SessionKey, list[Attempt]] = defaultdict(list)
        self.histories_seen: list[tuple[SessionKey, list[Message]]] = []
        self.at_once: list[tuple[Attempt, list[Attempt]]] = []
        """Each attempt that began, and what had begun in its process and not left."""
        self.gone: dict[int, float] = {}
        """When a process was at its end."""
        self.interruptions: list[float] = []
        """When processes died, lost their journal or began to drain."""
        self._shut: dict[SessionKey, float] = {}
        self._pausing_nth: dict[str, int] = {}
        self._resuming_nth: Counter[SessionKey] = Counter()
        self.while_paused: list[tuple[Attempt, float]] = []
        """Attempts that began when their session had been paused for sure, and since when."""
        self._asked: dict[str, int] = {}
        self._limits: dict[str, dict[str, float]] = {}
        self._policies: dict[str, IfBusy] = {}
        self.policies: dict[SessionKey, set[IfBusy]] = defaultdict(set)
        """How runs of each session were asked for."""
        self._over: set[int] = set()
        """Processes that are dead, or fenced."""
        self._draining_now: set[int] = set()
        self._live: dict[tuple[str, int], Attempt] = {}
        """By run and process."""
        for nth, event in enumerate(life.events):
            handle = getattr(self, f"_{event.what}" if event.what != "asked" else "_asked_", None)
            if handle is not None:
                handle(nth, event)
        for attempt in self._live.values():
            attempt.end(len(life.events), life.events[-1].at)
        for kept in life.runs.values():
            run = self._run(kept.run_id)
            run.text = str(kept.input)
            run.limits = self._limits[run.text]
            run.if_busy = self._policies[run.text]

    @staticmethod
    def as_line(messages: list[Message]) -> str:
        """Return a conversation as agents write down what they know."""
        return told(messages)

    def ended(self) -> Iterator[tuple[RunEvidence, Outcome]]:
        """Yield the runs that are kept with an outcome."""
        for run in self.runs.values():
            kept = self._life.runs.get(run.id)
            if kept is not None and kept.outcome is not None:
                yield run, kept.outcome

    def in_order_of_start(self) -> dict[SessionKey, list[RunEvidence]]:
        """Return the runs of each session that are kept, in the order in which they first began."""
        started: dict[SessionKey, dict[str, RunEvidence]] = defaultdict(dict)
        for key, attempts in self.by_session.items():
            for attempt in attempts:
                if attempt.run in self._life.runs:
                    started[key].setdefault(attempt.run, self.runs[attempt.run])
        return {key: list(runs.values()) for key, runs in started.items()}

    def was_in_vain(self, attempt: Attempt) -> bool:
        """Tell whether an attempt's claim may never have been kept: its process died, and the attempt came again."""
        again = self.runs[attempt.run].attempts
        return (
            attempt.crashed
            and not attempt.kept
            and any(each.number == attempt.number for each in again if each is not attempt)
        )

    def _run(self, run_id: str) -> RunEvidence:
        run = self.runs.get(run_id)
        if run is None:
            run = self.runs[run_id] = RunEvidence(run_id)
        return run

    def _attempt(self, event: Event) -> Attempt:
        """Return the attempt that an event of user code is of."""
        return next(each for each in reversed(self._run(event.run).attempts) if each.process == event.facts["process"])

    # -- events ----------------------------------------------------------------------------------------

    def _asked_(self, nth: int, event: Event) -> None:
        self._asked[event.run] = nth
        facts = event.facts
        self._limits[event.run] = {name: each for name, each in facts.items() if name not in ("session", "if_busy")}
        self._policies[event.run] = facts["if_busy"]
        self.policies[facts["session"]].add(facts["if_busy"])

    def _refused(self, nth: int, event: Event) -> None:
        self.refused[event.run] = event.facts["code"]

    def _accepted(self, nth: int, event: Event) -> None:
        run = self._run(event.run)
        run.accepted, run.accepted_nth, run.position = True, nth, event.facts["position"]
        run.text = event.facts["text"]
        run.asked_nth = self._asked[run.text]

    def _outcome(self, nth: int, event: Event) -> None:
        facts = event.facts
        self._run(event.run).told.add((facts["status"], facts["code"], facts["output"]))

    def _later(self, nth: int, event: Event) -> None:
        self._run(event.run).later = True

    def _lost(self, nth: int, event: Event) -> None:
        self._run(event.run).lost = True

    def _missing(self, nth: int, event: Event) -> None:
        self._run(event.run).missing = True

    def _cancelling(self, nth: int, event: Event) -> None:
        run = self._run(event.run)
        run.cancelling, run.forced = True, event.facts["force"]
        if run.forced:
            self.interruptions.append(event.at)

    def _moving(self, nth: int, event: Event) -> None:
        self._run(event.run).moved = True

    def _pausing(self, nth: int, event: Event) -> None:
        self.interruptions.append(event.at)
        self._pausing_nth[event.run] = nth

    def _paused(self, nth: int, event: Event) -> None:
        self.interruptions.append(event.at)
        key = event.facts["session"]
        if self._resuming_nth[key] < self._pausing_nth[event.run]:  # else that may have come after it
            self._shut[key] = event.at

    def _resuming(self, nth: int, event: Event) -> None:
        self.interruptions.append(event.at)
        self._shut.pop(event.facts["session"], None)
        self._resuming_nth[event.facts["session"]] = nth

    def _too_late(self, nth: int, event: Event) -> None:
        self._run(event.run).too_late = True

    def _cancelled(self, nth: int, event: Event) -> None:
        self._run(event.run).cancelled_at = event.at

    def _history(self, nth: int, event: Event) -> None:
        self.histories_seen.append((event.facts["session"], event.facts["messages"]))

    def _entered(self, nth: int, event: Event) -> None:
        attempt = Attempt(event, nth)
        run = self._run(attempt.run)
        run.text = attempt.text
        if attempt.process in self._over:  # it does not know yet that another process has its claim
            attempt.end(nth, event.at)
            attempt.crashed = True
            run.attempts.insert(0, attempt)
            return
        attempt.drained = attempt.process in self._draining_now
        if attempt.session in self._shut:
            self.while_paused.append((attempt, self._shut[attempt.session]))
        run.attempts.append(attempt)
        self.by_session[attempt.session].append(attempt)
        self._live[attempt.run, attempt.process] = attempt
        there = [each for each in self._live.values() if each.process == attempt.process and each.left_nth < 0]
        there.remove(attempt)
        self.at_once.append((attempt, there))

    def _left(self, nth: int, event: Event) -> None:
        attempt = self._attempt(event)
        attempt.how, attempt.left_nth = event.facts["how"], nth
        self._rest(attempt, nth, event)

    def _said(self, nth: int, event: Event) -> None:
        self._attempt(event).said.append((event.at, event.facts["text"]))

    def _round(self, nth: int, event: Event) -> None:
        run = self._run(event.run)
        attempt = self._attempt(event)
        for tool, idempotent in zip(event.facts["ids"], event.facts["idempotent"], strict=True):
            if tool not in run.asked or run.asked[tool].number <= attempt.number:  # not by one that was fenced
                run.asked[tool] = attempt
            if idempotent:
                run.idempotent.add(tool)

    def _staged(self, nth: int, event: Event) -> None:
        attempt = self._attempt(event)
        attempt.kept = len(attempt.said)

    def _begun(self, nth: int, event: Event) -> None:
        self._run(event.run).begun[event.facts["id"]] += 1
        self._attempt(event).units.add(event.facts["id"])

    def _thread(self, nth: int, event: Event) -> None:
        self._attempt(event).units.add(event.facts["id"])

    def _rested(self, nth: int, event: Event) -> None:
        attempt = self._attempt(event)
        attempt.units.discard(event.facts["id"])
        self._rest(attempt, nth, event)

    def _rest(self, attempt: Attempt, nth: int, event: Event) -> None:
        """Note that an attempt has come to its end, if nothing of it works any more."""
        if attempt.left_nth >= 0 and not attempt.units and self._live.get((event.run, attempt.process)) is attempt:
            attempt.end(nth, event.at)
            del self._live[event.run, attempt.process]

    def _kept(self, nth: int, event: Event) -> None:
        self._run(event.run).kept.add(event.facts["id"])

    def _finished(self, nth: int, event: Event) -> None:
        run = self._run(event.run)
        run.finished[event.facts["id"]] = (nth, event.at, event.facts["result"], self._attempt(event))

    def _crashed(self, nth: int, event: Event) -> None:
        for key, attempt in list(self._live.items()):
            if attempt.process == event.facts["process"]:
                attempt.end(nth, event.at)
                del self._live[key]
        self.crashes.append(nth)
        self.interruptions.append(event.at)
        self._over.add(event.facts["process"])
        self.gone.setdefault(event.facts["process"], event.at)
        self._ends(event.facts["process"], crashed=True)

    _fenced = _crashed

    def _draining(self, nth: int, event: Event) -> None:
        self.interruptions.append(event.at)
        self._draining_now.add(event.facts["process"])
        self._ends(event.facts["process"], crashed=False)

    def _drained(self, nth: int, event: Event) -> None:
        self.gone[event.facts["process"]] = event.at
        self.drains.append((event.facts["process"], event.facts["took_s"], event.facts["faulty"]))
        for key, attempt in list(self._live.items()):
            if attempt.process == event.facts["process"]:
                attempt.end(nth, event.at)
                del self._live[key]

    def _ends(self, process: int, *, crashed: bool) -> None:
        for attempts in self.by_session.values():
            for attempt in attempts:
                if attempt.process == process:
                    attempt.crashed = attempt.crashed or crashed
                    attempt.drained = attempt.drained or not crashed
