"""A target that plays scripts, and writes down what it really did.

It reports as a session agent has to (`strandline._agents.port`): messages as they join, a round before its tools
start, each result as it comes. What it did, it writes into the record at that very moment; the judge reads nothing
else of it. Once its process is dead, it does nothing any more, whatever is called.
"""

from simulation.performance import Broken, Performance
from simulation.process import Process, alive
from simulation.record import line_of, name_in, wording_of
from strandline._agents.port import Attempt, Finished, SessionAgent
from strandline._history import Progress
from strandline._model import AgentRecord, NeedsInput, SessionKey, StateRecord

EDITED, MARK, SAYS = "edited", "mark", "says"
"""Where the metadata of a run name its last edit, what the options of its session have put there, and what the run says
that it continues."""


class Phase:
    """The target of one process."""

    singleton = False
    self_managed = False
    description = "an actor"

    def __init__(self, process: Process, *, resumable: bool) -> None:
        self.resumable = resumable
        self._process = process

    async def build(self, key: SessionKey, record: AgentRecord, progress: Progress) -> SessionAgent:
        """Make the agent of a session."""
        alive(self._process)
        await self._process.chance.pass_time(0.05)
        alive(self._process)
        return Player(self._process, key, record, progress)


class Player:
    """The agent of one session."""

    def __init__(self, process: Process, key: SessionKey, record: AgentRecord, progress: Progress) -> None:
        self._process = process
        self._key = key
        self._messages = [*record.messages]
        if progress.question_state is not None:
            self._messages.pop()  # it counts as one of the run that continues it
        self._state: StateRecord = (progress.state if progress.state is not None else record.state) or {}
        self._fresh = True
        self._progress: Progress | None = progress

    async def run(self, attempt: Attempt) -> Finished:
        """Play one attempt."""
        process, run = self._process, attempt.context.run_id
        alive(process)
        progress, self._progress = self._progress, None
        answers = progress is not None and progress.question_state is not None
        text = _text_of(attempt, answers=answers)
        process.note(
            "entered",
            run,
            text=text,
            session=self._key,
            attempt=attempt.context.attempt,
            knows=line_of(self._messages),
            state=self._state.get("after", ""),
            resuming=len(attempt.messages),
            answers=answers,
            wording="" if answers else wording_of(_said_by(attempt)),
            **{name: value for name, value in attempt.context.metadata.items() if name in (EDITED, MARK)},
        )
        performance = Performance(process, attempt, run, process.scripts[text], _says(attempt, text))
        if progress is not None:
            performance.go_on(progress)
        how = "cut"
        try:
            finished = await performance.play(fresh=self._fresh)
            how = "asked" if isinstance(finished.ending, NeedsInput) else "answered"
        except Broken:
            how = "raised"
            raise
        finally:
            if process.alive:
                process.note("left", run, session=self._key, how=how)
        self._fresh = False
        self._messages += attempt.messages
        self._state = finished.state or {}
        return finished

    def compact(self) -> None:
        """Take as little memory as possible."""


def _text_of(attempt: Attempt, *, answers: bool) -> str:
    """Return the text that a run goes by: what it asks, or what it answers to all requests of a question."""
    named: str = attempt.context.metadata["text"]
    if answers:
        given = [] if attempt.prompt is None else attempt.prompt
        assert all(each["interruptResponse"]["response"] == named for each in given if isinstance(each, dict))
        return named
    text = name_in(_said_by(attempt))
    assert text == _says(attempt, named), f"{text} was requested as {named}"
    return named


def _says(attempt: Attempt, named: str) -> str:
    """Return the text that stands in the message of a run, and in the names of what it does."""
    return str(attempt.context.metadata.get(SAYS, named))


def _said_by(attempt: Attempt) -> str:
    """Return what the run itself says, without what was collected with it."""
    given = attempt.prompt if attempt.prompt is not None else attempt.messages[0]["content"]
    if isinstance(given, str):
        return given
    return str(given[0]["text"])
