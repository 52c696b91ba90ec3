"""What was seen in a life, put in order for the judge: by run, by attempt, by session."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterator

from msgspec.structs import replace

from judging.evidence import Delivery, End, Move, Pause, Request, Sweep
from simulation.asking import answered_by, asking_tool, questions_of
from simulation.life import Life
from simulation.record import Event, line_of
from simulation.seen import (
    Attempt,
    Deletion,
    Edit,
    ForeignStart,
    Fork,
    ObservedRun,
    Plan,
    Resolution,
    Restoration,
    Setting,
    text_of,
)
from strandline._model import Message, Outcome, Run, SessionKey


class Timeline:
    """The record of a life, sorted."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self.runs: dict[str, ObservedRun] = {}
        self.refused: dict[str, str] = {}
        self.refused_nth: dict[str, int] = {}
        self.not_running_at: dict[str, float] = {}
        """When requests were refused since the run that they were to join does not execute."""
        self.crashes: list[int] = []
        self.deaths: list[float] = []
        """When workers died."""
        self.ends: list[int] = []
        """When processes died, lost their journal or began to drain: what executed there may be requeued."""
        self.stops: list[int] = []
        """When processes began to drain."""
        self.drains: list[tuple[int, float, bool]] = []
        self.by_session: dict[SessionKey, list[Attempt]] = defaultdict(list)
        self.histories_seen: list[tuple[int, SessionKey, list[Message], bool]] = []
        """Each with where it was requested, and whether its end was shown as pending."""
        self._reading: dict[str, int] = {}
        """Where a client requested the history of a session, by the run that it is interested in."""
        self.at_once: list[tuple[Attempt, list[Attempt]]] = []
        """Each attempt that began, and what had begun in its process and not left."""
        self.gone: dict[int, float] = {}
        """When a process was at its end."""
        self.interruptions: list[float] = []
        """When processes died, lost their journal or began to drain."""
        self.requests: dict[str, Request] = {}
        """By text."""
        self.unsure: set[str] = set()
        """The texts of requests of which a client never knew what became."""
        self.reused: list[str] = []
        """The texts of requests that were refused since their key stands for another one."""
        self.answered: set[tuple[str, str]] = set()
        """The text of each request with the run that it became, as it was answered."""
        self.asking: set[str] = set()
        """The tools that have asked something."""
        self.sweeps: dict[str, Sweep] = {}
        self.deletions: dict[str, Deletion] = {}
        self.restorations: dict[str, Restoration] = {}
        """Those that were not refused."""
        self.forks: dict[str, Fork] = {}
        self.resolutions: dict[str, Resolution] = {}
        """By the texts of their requests."""
        self.settings: dict[str, Setting] = {}
        self.deliveries: list[Delivery] = []
        """What webhooks have received."""
        self.plans: dict[str, Plan] = {}
        """The schedules that were made for sure, by text."""
        self.put_off: dict[str, float] = {}
        """When runs of schedules were refused for the last time, by text."""
        self.starts: list[tuple[float, int]] = []
        """When each process was ready."""
        self.owned: dict[SessionKey, list[tuple[float, int]]] = defaultdict(list)
        """Where several servers share the journal: since when each session is whose."""
        self.paused: set[SessionKey] = set()
        """The sessions that were ever paused, or may have been."""
        self._shut: dict[SessionKey, float] = {}
        self._pausing_nth: dict[str, int] = {}
        self._under_way: Counter[SessionKey] = Counter()
        """How many are resuming or deleting a session just now."""
        self._resumed_nth: Counter[SessionKey] = Counter()
        self.pauses: list[Pause] = []
        self.foreign: list[ForeignStart] = []
        """What user code was started where its session was another's."""
        self._owners: dict[SessionKey, int] = {}
        """Where several servers share the journal: which process owns a session."""
        self._over: set[int] = set()
        """Processes that are dead, or fenced."""
        self._draining_now: set[int] = set()
        self._stood: set[tuple[int, int]] = set()
        """Workers that have ever stood still, each with its process."""
        self._live: dict[tuple[str, int], Attempt] = {}
        """By run and process."""
        for nth, event in enumerate(life.events):
            handle = getattr(self, f"_{event.what}", None)
            if handle is not None:
                handle(nth, event)
        for attempt in self._live.values():
            attempt.end(len(life.events), life.events[-1].at)
        for key in list(self._shut):
            self._unpause(key, math.inf)
        for stored in life.runs.values():
            run = self._run(stored.run_id)
            run.text = text_of(stored)
            request = self.requests[run.text]
            if not request.answers and (answers := tuple(answered_by(stored))):
                self.requests[run.text] = replace(request, answers=answers, by_text=True)
        self.questions = questions_of(life.runs)
        """By the id of the run that asks."""
        self.runs = {run.id: run for run in self.runs.values() if run.text}  # others were claimed in vain, and not kept
        for run in self.runs.values():
            run.request, run.says = self.requests[run.text], self.says(run.text)
            if run.request.answers:
                run.move = None  # it goes first wherever it is moved
            run.forced = run.forced or any(
                sweep.force and sweep.running and sweep.session == run.request.session for sweep in self.sweeps.values()
            )

    @staticmethod
    def as_line(messages: list[Message]) -> str:
        """Return a conversation as agents write down what they know."""
        return line_of(messages)

    def says(self, text: str) -> str:
        """Return what stands in the message of the run that goes by a text."""
        stored = self._life.runs.get(self.requests[text].resolves or "")
        return text if stored is None else self.says(text_of(stored))

    def continued(self, run_id: str) -> list[str]:
        """Return the crashed runs that a run continues, the last one first."""
        run = self.runs.get(run_id)
        crashed = None if run is None else run.request.resolves
        return [] if crashed is None else [crashed, *self.continued(crashed)]

    def origin(self, run: ObservedRun) -> ObservedRun:
        """Return the run that was first to say what a run says: it may continue others that have crashed."""
        before = self.continued(run.id)
        return self.runs.get(before[-1], run) if before else run

    def host_of(self, run: ObservedRun | None) -> str | None:
        """Return the run that a run has joined, if it has."""
        stored = None if run is None else self._life.runs.get(run.id)
        return None if stored is None else stored.joined

    def ended(self) -> Iterator[tuple[ObservedRun, Outcome]]:
        """Yield the runs that are kept with an outcome."""
        for run in self.runs.values():
            stored = self._life.runs.get(run.id)
            if stored is not None and stored.outcome is not None:
                yield run, stored.outcome

    def in_order_of_start(self) -> dict[SessionKey, list[ObservedRun]]:
        """Return the runs of each session that are kept, in the order in which they first began."""
        started: dict[SessionKey, dict[str, ObservedRun]] = defaultdict(dict)
        for key, attempts in self.by_session.items():
            for attempt in attempts:
                if attempt.run in self._life.runs:
                    started[key].setdefault(attempt.run, self.runs[attempt.run])
        return {key: list(runs.values()) for key, runs in started.items()}

    def is_deleted(self, run: ObservedRun) -> bool:
        """Return whether a run may have been deleted with its session."""
        return any(
            each.session == run.request.session and (each.answered < 0 or run.request.sent < each.answered)
            for each in self.deletions.values()
        )

    def was_deleted(self, session: SessionKey, since_nth: int = -1) -> bool:
        """Return whether a session may have been deleted after a place in the record."""
        return any(
            each.session == session and (each.answered < 0 or each.answered > since_nth)
            for each in self.deletions.values()
        )

    def kept_in(self, session: SessionKey) -> list[Run]:
        """Return the runs of a session that are kept."""
        return [each for each in self._life.runs.values() if each.key == session]

    def had_question(self, session: SessionKey) -> bool:
        """Return whether a run of a session has ever asked a person."""
        return any(attempt.requests_input for attempt in self.by_session[session])

    def _run(self, run_id: str) -> ObservedRun:
        run = self.runs.get(run_id)
        if run is None:
            run = self.runs[run_id] = ObservedRun(run_id)
        return run

    def _attempt(self, event: Event) -> Attempt:
        """Return the attempt that an event of user code is of."""
        return next(
            each for each in reversed(self._run(event.run).attempts) if each.process == event.details["process"]
        )

    # -- events ----------------------------------------------------------------------------------------

    def _requested(self, nth: int, event: Event) -> None:
        details = {name: value for name, value in event.details.items() if name != "limits"}
        own, options = event.details["limits"], self._life.options
        limits = {name: own.get(name, float(getattr(options, name))) for name in ("timeout_s", "queue_timeout_s")}
        self.requests[event.run] = Request(name=event.run, sent=nth, sent_s=event.at, **details, **limits)

    def _refused(self, nth: int, event: Event) -> None:
        self.refused[event.run] = event.details["code"]
        self.refused_nth[event.run] = nth
        if event.details["code"] == "not_running":
            self.not_running_at[event.run] = event.at

    def _unsure(self, nth: int, event: Event) -> None:
        self.unsure.add(event.run)

    def _reused(self, nth: int, event: Event) -> None:
        self.reused.append(event.run)

    def _accepted(self, nth: int, event: Event) -> None:
        run = self._run(event.run)
        self.answered.add((event.details["text"], event.run))
        if run.accepted:
            return
        run.accepted, run.accepted_nth, run.accepted_at = True, nth, event.at
        run.position = event.details["position"]
        run.joins, run.attached = event.details["joins"], event.details["attached"]
        run.text = event.details["text"]

    def _outcome(self, nth: int, event: Event) -> None:
        details, run = event.details, self._run(event.run)
        if run.reported_nth < 0:
            run.reported_nth = nth
        run.reported.add((details["status"], details["code"], details["output"]))

    def _later(self, nth: int, event: Event) -> None:
        run = self._run(event.run)
        run.later_nth = nth if run.later_nth < 0 else run.later_nth

    def _missing(self, nth: int, event: Event) -> None:
        self._run(event.run).missing = True

    def _cancelling(self, nth: int, event: Event) -> None:
        run = self._run(event.run)
        run.cancelling_at.append(event.at)
        run.cancelling, run.forced = True, event.details["force"]
        if run.forced:
            self.interruptions.append(event.at)

    def _sweeping(self, nth: int, event: Event) -> None:
        self.sweeps[event.run] = Sweep(sent=nth, sent_s=event.at, **event.details)
        if event.details["force"]:
            self.interruptions.append(event.at)

    def _swept(self, nth: int, event: Event) -> None:
        stopped = (*event.details["ended"], *event.details["requested"])
        self.sweeps[event.run] = replace(self.sweeps[event.run], answered=nth, answered_s=event.at, stopped=stopped)
        for run_id in stopped:
            self._is_cancelled(self._run(run_id), nth, event)

    def _hung_up(self, nth: int, event: Event) -> None:
        self._run(event.run).hung_up_at.append(event.at)

    def _moving(self, nth: int, event: Event) -> None:
        self._run(event.run).move = Move(sent_s=event.at, priority=event.details["priority"])

    def _moved(self, nth: int, event: Event) -> None:
        run = self._run(event.run)
        assert run.move is not None
        run.move = replace(run.move, answered_s=event.at)

    def _unmoved(self, nth: int, event: Event) -> None:
        self._run(event.run).move = None

    def _editing(self, nth: int, event: Event) -> None:
        details = event.details
        name, expected = details["name"], tuple(details["expected"])
        self._run(event.run).edits[name] = Edit(
            name=name,
            sent=nth,
            sent_s=event.at,
            priority=details["priority"],
            expected=expected,
            rewords=details["rewords"],
        )

    def _edited(self, nth: int, event: Event) -> None:
        edits, name = self._run(event.run).edits, event.details["name"]
        edits[name] = replace(edits[name], answered=nth, answered_s=event.at)

    def _unedited(self, nth: int, event: Event) -> None:
        edits, name = self._run(event.run).edits, event.details["name"]
        edits[name] = replace(edits[name], refused=event.details["code"])

    def _forking(self, nth: int, event: Event) -> None:
        details = event.details
        self.forks[event.run] = Fork(session=details["session"], after=details["after"], sent=nth)

    def _forked(self, nth: int, event: Event) -> None:
        fork = self.forks[event.run]
        fork.answered = nth if fork.answered < 0 else fork.answered
        fork.answers.append((event.details["messages"], event.details["forgotten"]))

    def _unforked(self, nth: int, event: Event) -> None:
        self.forks[event.run].refused = event.details["code"]

    def _hooked(self, nth: int, event: Event) -> None:
        details = event.details
        self.deliveries.append(
            Delivery(
                id=details["id"],
                kind=details["type"],
                run_id=event.run,
                session=SessionKey(details["principal"], details["session"]),
                content=details["content"].encode(),
                status=details["status"],
                end=End(details["code"] or details["status"], details["output"]),
            )
        )

    def _resolving(self, nth: int, event: Event) -> None:
        self.resolutions[event.run] = Resolution(**event.details)

    def _setting(self, nth: int, event: Event) -> None:
        details = event.details
        self.settings[event.run] = Setting(session=details["session"], mark=details["mark"], sent=nth)

    def _set(self, nth: int, event: Event) -> None:
        self.settings[event.run].answered = nth

    def _unset(self, nth: int, event: Event) -> None:
        del self.settings[event.run]

    def _pausing(self, nth: int, event: Event) -> None:
        self.interruptions.append(event.at)
        self._pausing_nth[event.run] = nth
        self.paused.add(event.details["session"])

    def _paused(self, nth: int, event: Event) -> None:
        self.interruptions.append(event.at)
        key = event.details["session"]
        if not self._under_way[key] and self._resumed_nth[key] < self._pausing_nth[event.run]:
            self._shut.setdefault(key, event.at)  # else a resume may have come after it

    def _resuming(self, nth: int, event: Event) -> None:
        self.interruptions.append(event.at)
        self._unpause(event.details["session"], event.at)
        self._under_way[event.details["session"]] += 1

    def _resumed(self, nth: int, event: Event) -> None:
        self._under_way[event.details["session"]] -= 1
        self._resumed_nth[event.details["session"]] = nth

    def _unpause(self, key: SessionKey, at: float) -> None:
        """Note until when a session was paused for sure."""
        if (since_s := self._shut.pop(key, None)) is not None:
            self.pauses.append(Pause(session=key, since_s=since_s, until_s=at))

    def _deleting(self, nth: int, event: Event) -> None:
        key = event.details["session"]
        self.deletions[event.run] = Deletion(sent=nth, sent_s=event.at, session=key)
        self._unpause(key, event.at)
        self._under_way[key] += 1

    def _undeleted(self, nth: int, event: Event) -> None:
        self._under_way[self.deletions.pop(event.run).session] -= 1

    def _deleted(self, nth: int, event: Event) -> None:
        deletion = self.deletions.pop(event.run)
        self._under_way[deletion.session] -= 1
        self._resumed_nth[deletion.session] = nth
        if event.details["existed"]:
            self.deletions[event.run] = replace(deletion, answered=nth)

    def _expiring(self, nth: int, event: Event) -> None:
        key = event.details["session"]
        self.deletions[event.run] = Deletion(
            sent=nth, sent_s=event.at, session=key, at_rest=True, paused=key in self._shut
        )

    def _forgot(self, nth: int, event: Event) -> None:
        deletion = self.deletions.pop(event.run)
        if event.details["existed"]:
            paused = deletion.paused and deletion.session in self._shut
            self.deletions[event.run] = replace(deletion, answered=nth, paused=paused)

    def _restoring(self, nth: int, event: Event) -> None:
        self.restorations[event.run] = Restoration(sent=nth, **event.details)

    def _restored(self, nth: int, event: Event) -> None:
        known = self.restorations[event.run]
        self.restorations[event.run] = replace(known, answered=nth, changed=event.details["changed"])

    def _unrestored(self, nth: int, event: Event) -> None:
        del self.restorations[event.run]

    def _scheduled(self, nth: int, event: Event) -> None:
        self.plans[event.run] = Plan(text=event.run, made_s=event.at, **event.details)

    def _unscheduling(self, nth: int, event: Event) -> None:
        if event.run in self.plans:
            self.plans[event.run].until_s = min(self.plans[event.run].until_s, event.at)

    def _put_off(self, nth: int, event: Event) -> None:
        self.put_off[event.run] = event.at

    def _owned(self, nth: int, event: Event) -> None:
        """Note that a session has another owner. Clients that wait for its runs at the former one learn that they
        continue later."""
        self._owners[event.details["session"]] = event.details["owner"]
        self.owned[event.details["session"]].append((event.at, event.details["owner"]))
        self.interruptions.append(event.at)
        self.ends.append(nth)
        self.stops.append(nth)

    def _model(self, nth: int, event: Event) -> None:
        attempt = self._attempt(event)
        attempt.called, attempt.heard = True, event.details["heard"]
        self._starts("a model call", event)

    def _starts(self, what: str, event: Event) -> None:
        session, process = self._attempt(event).session, event.details["process"]
        is_watched = self._life.engines > 1 and session not in self._life.copied
        if is_watched and (owner := self._owners.get(session, 0)) != process:
            self.foreign.append(ForeignStart(what, event.run, process, owner))

    def _started(self, nth: int, event: Event) -> None:
        self.starts.append((event.at, event.details["process"]))

    def _too_late(self, nth: int, event: Event) -> None:
        self._run(event.run).too_late = True

    def _cancelled(self, nth: int, event: Event) -> None:
        self._is_cancelled(self._run(event.run), nth, event)

    def _withdrawn(self, nth: int, event: Event) -> None:
        run = self._run(event.run)
        if run.withdrawn_nth < 0:
            run.withdrawn_nth = nth

    def _is_cancelled(self, run: ObservedRun, nth: int, event: Event) -> None:
        if run.cancelled_at is None:
            run.cancelled_at, run.cancelled_nth = event.at, nth

    def _reading_history(self, nth: int, event: Event) -> None:
        self._reading[event.run] = nth

    def _history(self, nth: int, event: Event) -> None:
        details, requested = event.details, self._reading.pop(event.run, nth)
        self.histories_seen.append((requested, details["session"], details["messages"], details["pending"]))

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
        attempt.stood = (attempt.process, attempt.worker) in self._stood
        run.attempts.append(attempt)
        self.by_session[attempt.session].append(attempt)
        self._live[attempt.run, attempt.process] = attempt
        there = [each for each in self._live.values() if each.process == attempt.process and each.left_nth < 0]
        there.remove(attempt)
        self.at_once.append((attempt, there))

    def _left(self, nth: int, event: Event) -> None:
        attempt = self._attempt(event)
        attempt.how, attempt.left_nth = event.details["how"], nth
        self._rest(attempt, nth, event)

    def _said(self, nth: int, event: Event) -> None:
        self._attempt(event).said.append((event.at, event.details["text"]))

    def _round(self, nth: int, event: Event) -> None:
        run = self._run(event.run)
        attempt = self._attempt(event)
        for tool, idempotent in zip(event.details["ids"], event.details["idempotent"], strict=True):
            if tool not in run.requested or run.requested[tool].number <= attempt.number:  # not by one that was fenced
                run.requested[tool] = attempt
            if idempotent:
                run.idempotent.add(tool)

    def _requests_input(self, nth: int, event: Event) -> None:
        self._attempt(event).requests_input = event.details["requests"]
        self.asking |= {asking_tool(each) for each in event.details["requests"]}

    def _checkpointed(self, nth: int, event: Event) -> None:
        attempt = self._attempt(event)
        attempt.durable = len(attempt.said)

    def _begun(self, nth: int, event: Event) -> None:
        self._run(event.run).begun[event.details["id"]] += 1
        self._attempt(event).units.add(event.details["id"])
        self._starts(f"tool {event.details['id']}", event)

    def _thread(self, nth: int, event: Event) -> None:
        self._attempt(event).units.add(event.details["id"])

    def _rested(self, nth: int, event: Event) -> None:
        attempt = self._attempt(event)
        attempt.units.discard(event.details["id"])
        self._rest(attempt, nth, event)

    def _rest(self, attempt: Attempt, nth: int, event: Event) -> None:
        """Note that an attempt has come to its end, if nothing of it works any more."""
        if attempt.left_nth >= 0 and not attempt.units and self._live.get((event.run, attempt.process)) is attempt:
            attempt.end(nth, event.at)
            del self._live[event.run, attempt.process]

    def _kept(self, nth: int, event: Event) -> None:
        self._run(event.run).durable.add(event.details["id"])

    def _finished(self, nth: int, event: Event) -> None:
        run = self._run(event.run)
        run.finished[event.details["id"]] = (nth, event.at, event.details["result"], self._attempt(event))

    def _crashed(self, nth: int, event: Event) -> None:
        for key, attempt in list(self._live.items()):
            if attempt.process == event.details["process"]:
                attempt.end(nth, event.at)
                del self._live[key]
        self.crashes.append(nth)
        self.ends.append(nth)
        self.interruptions.append(event.at)
        self._over.add(event.details["process"])
        self.gone.setdefault(event.details["process"], event.at)
        self._ends(event.details["process"], crashed=True)

    _fenced = _crashed

    def _worker_died(self, nth: int, event: Event) -> None:
        details = event.details
        self.crashes.append(nth)
        self.deaths.append(event.at)
        for key, attempt in list(self._live.items()):
            if attempt.process == details["process"] and attempt.worker == details["worker"]:
                attempt.end(nth, event.at)
                del self._live[key]
        for attempts in self.by_session.values():
            for attempt in attempts:
                if attempt.process == details["process"] and attempt.worker == details["worker"]:
                    attempt.crashed = True
                    attempt.worker_gone_at = event.at

    def _stands(self, nth: int, event: Event) -> None:
        self._stood.add((event.details["process"], event.details["worker"]))

    def _blocks(self, nth: int, event: Event) -> None:
        details = event.details
        self._attempt(event).blocked = True
        for attempt in self._live.values():
            if attempt.process == details["process"] and attempt.worker == details["worker"]:
                attempt.beside_blocked = True

    def _draining(self, nth: int, event: Event) -> None:
        self.interruptions.append(event.at)
        self.ends.append(nth)
        self.stops.append(nth)
        self._draining_now.add(event.details["process"])
        self._ends(event.details["process"], crashed=False)

    def _drained(self, nth: int, event: Event) -> None:
        self.gone[event.details["process"]] = event.at
        self.drains.append((event.details["process"], event.details["took_s"], event.details["faulty"]))
        for key, attempt in list(self._live.items()):
            if attempt.process == event.details["process"]:
                attempt.end(nth, event.at)
                del self._live[key]

    def _ends(self, process: int, *, crashed: bool) -> None:
        for attempts in self.by_session.values():
            for attempt in attempts:
                if attempt.process == process:
                    attempt.crashed = attempt.crashed or crashed
                    attempt.drained = attempt.drained or not crashed
