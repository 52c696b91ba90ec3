"""Tasks: a run, and the runs that answer its questions, as A2A shows them. Pure."""

from collections.abc import Sequence

from msgspec import UNSET, Struct, UnsetType

from strandline._engine.events import RunFinished
from strandline._http import wire as http
from strandline._http.dialects.a2a.wire import (
    Artifact,
    Message,
    Metadata,
    State,
    Status,
    Task,
    Version,
    about_requests,
    state_of,
)
from strandline._http.dialects.endings import reason_of
from strandline._http.dialects.sent_text import text_of
from strandline._http.dialects.waiting import questions
from strandline._model import Outcome, RunId, RunStatus, RunSummary

ANSWER = "answer"
"""The name of each artifact."""


class Step(Struct, frozen=True, kw_only=True):
    """A run of a task, as it stands. `at`: since when, in seconds since the epoch, if that is known."""

    run_id: RunId
    status: RunStatus
    outcome: Outcome | RunFinished | None = None
    at: float | None = None
    position: int | None = None


def step_of(run: RunSummary) -> Step:
    """Return a stored run."""
    at = run.ended_at or run.started_at or run.created_at
    return Step(run_id=run.run_id, status=run.status, outcome=run.outcome, at=at, position=run.position)


class Tasks(Struct, frozen=True, kw_only=True):
    """Shows one task in one version: its id, which is that of its first run, and its context, which is its session."""

    version: Version
    task_id: RunId
    context_id: str

    def task(
        self,
        steps: Sequence[Step],
        *,
        dismissed: bool = False,
        history: list[Message] | UnsetType = UNSET,
        with_artifacts: bool = True,
    ) -> Task:
        """Return it; `steps` are its runs, in order, at least one. `dismissed`: the question of the last one is."""
        last = steps[-1]
        artifacts = [self.artifact(each.run_id, text) for each in steps if (text := said_by(each.outcome))]
        return Task(
            kind="task" if self.version.has_kinds else UNSET,
            id=self.task_id,
            context_id=self.context_id,
            status=self.status(last, dismissed=dismissed),
            artifacts=artifacts if artifacts and with_artifacts else UNSET,
            history=history,
            metadata={"strandline": self.about(last)},
        )

    def status(self, step: Step, *, dismissed: bool = False) -> Status:
        """Return where it stands, with its question, or why it has no answer."""
        state: State = state_of(step.status, dismissed=dismissed)
        message: Message | UnsetType = UNSET
        if state == "input-required" and step.outcome is not None:
            message = self.question(step)
        elif step.outcome is not None and (reason := reason_of(step.outcome)) is not None:
            message = self.message("agent", [self.version.text(reason[1])], f"{step.run_id}-end")
        at = http.timestamp(step.at)
        return Status(self.version.state(state), message, UNSET if at is None else at)

    def question(self, step: Step) -> Message:
        """Return the question that a run has ended with: for people, and as data."""
        assert step.outcome is not None
        requests = step.outcome.input_requests
        parts = [self.version.text(questions(requests)), self.version.data(about_requests(requests))]
        return self.message("agent", parts, f"{step.run_id}-question")

    def about(self, step: Step) -> Metadata:
        """Return what is ours to say of it."""
        reason = None if step.outcome is None else reason_of(step.outcome)
        usage = None if step.outcome is None else step.outcome.usage
        return Metadata(
            run_id=step.run_id,
            position=step.position or UNSET,
            code=UNSET if reason is None else reason[0],
            usage=UNSET if usage is None else usage,
        )

    def artifact(self, run_id: RunId, text: str) -> Artifact:
        """Return what a run has said last."""
        return Artifact(run_id, ANSWER, [self.version.text(text)])

    def message(self, role: str, parts: list, message_id: str) -> Message:  # type: ignore[type-arg]
        """Return a message of the task."""
        return Message(
            kind="message" if self.version.has_kinds else UNSET,
            role=self.version.role("agent" if role == "agent" else "user"),
            parts=parts,
            message_id=message_id,
            context_id=self.context_id,
            task_id=self.task_id,
        )


def said_by(end: Outcome | RunFinished | None) -> str:
    """Return what a run has said last, as its pieces have it; without a text its answer in another form."""
    if end is None:
        return ""
    text = "" if end.message is None else text_of(end.message)
    return text if text.strip() else end.output
