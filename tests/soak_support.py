"""A true story for the soak's judge, to be made wrong in one way or another."""

from typing import Any

from msgspec.structs import replace

from judging.evidence import End
from soak.case import UNKNOWN, Rules
from soak.judge import judge
from soak.ledger import Line
from soak.message import OUT_OF_ORDER
from soak.records import Answered, Cancel, Exit, Records, Seen, SentRequest, Stored, View, digest

Block = dict[str, Any]
SESSION = "shared-0.0"
DONE, BROKE, CRASHED, FAILED, QUEUED = "c0-0", "c1-0", "c2-0", "c3-0", "c4-0"
TEXTS = {
    DONE: f"{DONE} work.1",
    BROKE: f"{BROKE} fails.1+awork.2",
    CRASHED: f"{CRASHED} work.5",
    FAILED: f"{FAILED} error",
    QUEUED: QUEUED,
}


def use(tool: str, number: int) -> Block:
    return {"toolUse": {"toolUseId": f"use-{number}", "name": tool, "input": {}}}


def result(number: int, text: str, status: str) -> Block:
    return {"toolResult": {"toolUseId": f"use-{number}", "status": status, "content": [{"text": text}]}}


def user(*content: Block) -> Block:
    return {"role": "user", "content": list(content)}


def assistant(*content: Block) -> Block:
    return {"role": "assistant", "content": list(content)}


def ran(label: str, tool: str, number: int, how: Any, *, pid: int = 1) -> list[Line]:
    """Return the lines of a tool that ended so; None: it never did."""
    known: dict[str, Any] = {"session": SESSION, "label": label, "pid": pid, "run_id": f"run-{label}", "tool": tool}
    known |= {"tool_use_id": f"use-{number}", "token": f"token-{number}", "attempt": 1}
    begin = Line(kind="begin", at_ns=number * 100, **known)
    return [begin] if how is None else [begin, Line(kind="end", at_ns=number * 100 + 1, how=how, **known)]


class World:
    """A true story: five runs of a session, one of which was executing when the first server was killed."""

    def __init__(self) -> None:
        self.lines = [
            *ran(DONE, "work", 1, "done"),
            *ran(BROKE, "fails", 2, "raised"),
            *ran(BROKE, "awork", 3, "done"),
            *ran(CRASHED, "work", 4, None),
            Line(kind="model", session=SESSION, label=FAILED, pid=2, at_ns=500),
        ]
        self.history = [
            user({"text": TEXTS[DONE]}),
            assistant(use("work", 1)),
            user(result(1, "did token-1", "success")),
            assistant({"text": f"{DONE}: did token-1"}),
            user({"text": TEXTS[BROKE]}),
            assistant(use("fails", 2), use("awork", 3)),
            user(result(2, "went wrong token-2", "error"), result(3, "did token-3", "success")),
            assistant({"text": f"{BROKE}: went wrong token-2, did token-3"}),
            user({"text": TEXTS[CRASHED]}),
            assistant(use("work", 4)),
            user(result(4, f"{UNKNOWN}: it may have run.", "error")),
            assistant({"text": "(This run ended early: crashed.)"}, {"text": "the server died"}),
            user({"text": TEXTS[FAILED]}),
            assistant({"text": "(This run ended early: agent_error.)"}, {"text": f"ConnectionError: {OUT_OF_ORDER}"}),
            user({"text": TEXTS[QUEUED]}),
            assistant({"text": f"{QUEUED}: nothing done"}),
        ]
        self.ends = {
            DONE: End(kind="succeeded", text=f"{DONE}: did token-1"),
            BROKE: End(kind="succeeded", text=f"{BROKE}: went wrong token-2, did token-3"),
            CRASHED: End(kind="crashed", text="the server died"),
            FAILED: End(kind="agent_error", text=f"ConnectionError: {OUT_OF_ORDER}"),
            QUEUED: End(kind="succeeded", text=f"{QUEUED}: nothing done"),
        }
        self.records = Records(monotonic_s=1_000.0)  # (so its clients know everything too late)
        for number, (label, text) in enumerate(TEXTS.items(), 1):
            run_id, end = f"run-{label}", self.ends[label]
            status = "succeeded" if end.kind == "succeeded" else "failed"
            self.records.requests[label] = SentRequest(name=label, session=SESSION, text=text, sent=number)
            self.records.stored.append(
                Stored(sequence=number, run_id=run_id, session=SESSION, status=status, attempt=1)
            )
            self.records.views[run_id] = View(
                status_code=200,
                status=status,
                attempt=1,
                started=True,
                ended_at=f"t{number}",
                ended=end,
                label=label,
                created=100.0 + number,
                begun=200.0 + 10 * number,
                ended_s=201.0 + 10 * number,
            )
            self.records.reported[run_id].add(end)
            self.records.reported_at[run_id].add(f"t{number}")
        answer = Answered(label=DONE, status_code=200, at_ns=90, run_id=f"run-{DONE}")
        self.records.answered.append(answer)
        self.records.seen_waiting[QUEUED] = (f"run-{QUEUED}", 95)
        self.records.requests["c5-0"] = SentRequest(name="c5-0", session=SESSION, text="c5-0 work.1", sent=9)
        self.records.answered.append(Answered(label="c5-0", status_code=503, at_ns=99))
        self.records.seen[SESSION].add(Seen(count=4, digest=digest(self.history[:4])))
        self.records.exits = [
            Exit(server=1, signals=("KILL",), phase="ready", code=-9),
            Exit(server=2, signals=("TERM",), phase="ready", code=0),
            Exit(server=3, signals=("TERM", "KILL"), phase="ready", code=-9),
            Exit(server=4, signals=("TERM",), phase="starting", code=-15),
        ]

    def judged(self, rules: Rules = Rules()) -> list[str]:  # noqa: B008 (it is frozen)
        self.records.histories[SESSION] = self.history
        return judge(self.records, self.lines, rules)

    def end(self, label: str, ended: End) -> None:
        self.records.views[f"run-{label}"] = replace(self.records.views[f"run-{label}"], ended=ended)

    def view(self, label: str, **changes: Any) -> None:
        """Change what the run API shows of a run."""
        self.records.views[f"run-{label}"] = replace(self.records.views[f"run-{label}"], **changes)

    def ask(self, label: str, **changes: Any) -> None:
        """Change what a run was requested with."""
        self.records.requests[label] = replace(self.records.requests[label], **changes)

    def begin_elsewhere(self, *, sequence: int, begun: float) -> None:
        """Have a run of another session start."""
        run = Stored(sequence=sequence, run_id="run-elsewhere", session="elsewhere", status="succeeded", attempt=1)
        self.records.stored.append(run)
        done = End(kind="succeeded", text="done")
        self.records.views[run.run_id] = View(
            status_code=200, status="succeeded", started=True, ended=done, begun=begun, ended_s=begun + 1.0
        )

    def cancel(self, label: str, status_code: int, **more: Any) -> None:
        """Have somebody cancel a run, and be answered so."""
        self.records.cancels.append(Cancel(run_id=f"run-{label}", status_code=status_code, **more))

    def be_cancelled(self, label: str = FAILED) -> None:
        """Have a run end as cancelled, which nobody has requested."""
        self.view(label, status="cancelled", ended=End(kind="cancelled", text="the run was cancelled"))
        place = next(n for n, each in enumerate(self.history) if each["content"] == [{"text": TEXTS[label]}])
        self.history[place + 1]["content"] = [{"text": "(This run ended early: cancelled.)"}]
        number = list(TEXTS).index(label)
        self.records.stored[number] = replace(self.records.stored[number], status="cancelled")
        self.records.reported[f"run-{label}"].clear()
