"""A true story of three runs, as a record of evidence, and what can be changed in it: for tests of the common rules."""

from collections.abc import Callable
from typing import Any, Final

from msgspec.structs import replace

from judging.evidence import (
    Cancel,
    Deletion,
    End,
    Evidence,
    History,
    Limits,
    Move,
    Question,
    Request,
    Run,
    Sweep,
)
from judging.judge import judge

LIMITS: Final = Limits(
    max_attempts=3, cancel_grace_s=1.0, input_timeout_s=10.0, key_retention_s=100.0, soon_s=0.01, slack_s=0.5,
    drain_s=5.0, noticed_s=0.1, late_s=5.0, undisturbed_s=2.0, closed_s=0.05,
)  # fmt: skip
ADA, BOB = "ada", "bob"


class Story:
    """A true one: Ada's runs `one`, `two` and `three` start at 10, 20 and 30, each a second after it was accepted, and
    succeed after a second. Places are seconds here."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.extra: dict[str, Request] = {}
        """Requests whose run is not stored."""
        self.seen: dict[str, Any] = {
            name: [] for name in ("cancels", "sweeps", "pauses", "deletions", "questions", "refused_answers")
        }
        self.seen |= {
            "tools": [],
            "views": [],
            "histories": [],
            "strangers": [],
            "interruptions": [],
            "work": {},
            "reported": {},
            "acknowledged": {},
        }
        self.seen |= {name: frozenset() for name in ("missing", "refused", "happened", "became")}
        for number, name in enumerate(("one", "two", "three"), 1):
            self.add(name, number)

    def add(self, name: str, number: int, session: str = ADA) -> None:
        at = 10 * number
        self.runs[name] = Run(
            id=name, session=session, sequence=number, attempts=1, priority=3, started=True,
            request=Request(name=name, session=session, sent=at - 2, sent_s=at - 2.0),
            status="succeeded", end=End("succeeded", "done"), accepted=at - 1, accepted_s=at - 1.0,
            created_s=at - 1.0, started_s=float(at), ended_s=at + 1.0,
        )  # fmt: skip

    def be(self, name: str, **changes: Any) -> None:
        """Change what is stored of a run."""
        for field, value in changes.items():
            setattr(self.runs[name], field, value)

    def ask(self, name: str, **changes: Any) -> None:
        """Change what a run was requested with."""
        self.runs[name].request = replace(self.runs[name].request, **changes)

    def end(self, name: str, kind: str, **changes: Any) -> None:
        status = kind if kind in ("cancelled", "needs_input") else "failed"
        self.be(name, status=status, end=End(kind, ""), **changes)

    def saw(self, **more: Any) -> None:
        """Add one thing that was seen of each kind."""
        for name, value in more.items():
            self.seen[name].append(value)

    def question(self, *requests: str, by: str = "one") -> None:
        """Have a run ask for input, from the second of its end on."""
        self.end(by, "needs_input")
        self.saw(questions=Question(run=self.runs[by], requests=frozenset(requests)))

    def cancel(self, name: str) -> None:
        """Have a cancel of a run be accepted."""
        self.saw(cancels=Cancel(run_id=name, result="accepted"))

    def lose(self, name: str) -> None:
        """Have a run that was answered be stored no more."""
        self.extra[name] = self.runs.pop(name).request
        self.seen["acknowledged"][name] = "answered 200"

    def judged(self) -> list[str]:
        requests = self.extra | {run.request.name: run.request for run in self.runs.values()}
        executed: dict[Any, list[Run]] = {}
        for run in sorted(self.runs.values(), key=lambda run: run.started_s or run.accepted):
            if run.started:
                executed.setdefault(run.session, []).append(run)
        names = {name: name for name in requests}
        return judge(
            Evidence(limits=LIMITS, requests=requests, runs=self.runs, name_of=names, executed=executed, **self.seen)
        )


def sweep(**changes: Any) -> Sweep:
    """A cancel of Ada's session while `two` executes."""
    known = {"running": False, "force": False, "sent": 20, "answered": 22, "answered_s": 20.5}
    return Sweep(**{"session": ADA, **known, **changes})


def deletion(**changes: Any) -> Deletion:
    return Deletion(**{"session": ADA, "sent": 40, "answered": 45, **changes})


Change = Callable[[Story], object]


def told(*changes: Change) -> Story:
    story = Story()
    for change in changes:
        change(story)
    return story


def cancelled(name: str = "two", **changes: Any) -> Change:
    return lambda story: story.end(name, "cancelled", **changes)


def ask(name: str, **changes: Any) -> Change:
    return lambda story: story.ask(name, **changes)


def be(name: str, **changes: Any) -> Change:
    return lambda story: story.be(name, **changes)


def saw(**more: Any) -> Change:
    return lambda story: story.saw(**more)


def seen(**more: Any) -> Change:
    return lambda story: story.seen.update(more)


def lose(name: str) -> Change:
    return lambda story: story.lose(name)


def question(*requests: str, by: str = "one") -> Change:
    return lambda story: story.question(*requests, by=by)


def left(at: float, on_disconnect: str, name: str = "two", **changes: Any) -> Change:
    """Have the client of a run leave."""

    def change(story: Story) -> None:
        story.ask(name, on_disconnect=on_disconnect, **changes)
        story.be(name, left_s=[at])

    return change


def add_bob(story: Story) -> None:
    story.add("bobs", 1, BOB)


def given_up(limit_s: float, **changes: Any) -> Change:
    """Have `two` be given up after it has waited from 10 to 16."""

    def change(story: Story) -> None:
        story.ask("two", queue_timeout_s=limit_s)
        story.end("two", "queue_timeout", started=False, started_s=None, created_s=10.0, ended_s=16.0, **changes)

    return change


def history(*roles: str, tool: str = "t", pending: bool | None = None) -> Change:
    """Show a history; the last message of an `asker` calls a tool that asks a person."""
    text, use = {"text": "x"}, {"toolUse": {"toolUseId": tool, "name": "asks", "input": {}}}
    messages = [
        {"role": "assistant", "content": [use]} if role == "asker" else {"role": role, "content": [text]}
        for role in roles
    ]
    return saw(histories=History(session=ADA, messages=messages, requests_input=frozenset({"t"}), pending=pending))


def moved(name: str, *moves: tuple[float, float, int | None], priority: int = 3) -> Change:
    """Have a run that waits be moved: sent at, answered at, to."""
    made = [Move(sent_s=sent_s, answered_s=answered_s, priority=to) for sent_s, answered_s, to in moves]
    return be(name, moves=made, priority=priority)
