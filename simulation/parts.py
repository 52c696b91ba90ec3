"""A history, cut into what each run has left there.

A run begins with its question. One that answers begins with the results of the round that the run which asked has left
open, and so does what the journal itself adds where a question comes to nothing.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator

from msgspec import Struct

from simulation.asking import Question
from simulation.life import Life
from simulation.record import name_in
from simulation.seen import ObservedRun
from simulation.timeline import Timeline
from strandline._model import Message, SessionKey

NOT_ANSWERED = "(The input that was asked for was not given.)"


class Part(Struct, frozen=True, kw_only=True):
    """What one run has left, or (`run` is None) nobody: the journal, or somebody who is no run at all."""

    run: ObservedRun | None
    messages: list[Message]
    hidden: bool
    opened: Message | None = None
    """The message whose round it closes, which an earlier run had left open."""
    question: Question | None = None
    """The last question of that round."""


def uses(message: Message) -> list[str]:
    """Return the tools that a message asks for."""
    return [block["toolUse"]["toolUseId"] for block in message["content"] if "toolUse" in block]


def last_text(messages: list[Message]) -> str:
    """Return the last text of a part."""
    return str(messages[-1]["content"][-1].get("text", ""))


def split(life: Life, timeline: Timeline, key: SessionKey) -> list[Part]:
    """Return the parts of a session's history, hidden ones too."""
    return list(_Splitter(life, timeline, key).parts())


class _Splitter:
    def __init__(self, life: Life, timeline: Timeline, key: SessionKey) -> None:
        self._texts = {run.text: run for run in timeline.runs.values()}
        self._continuing: dict[str, list[ObservedRun]] = defaultdict(list)
        """By what they say: the runs that continue crashed ones, in the order in which they stand in history."""
        for stored in sorted(life.runs.values(), key=lambda run: run.sequence):
            if (run := timeline.runs[stored.run_id]).request.resolves is not None:
                self._continuing[run.says].append(run)
        self._seen: Counter[str] = Counter()
        self._runs = timeline.runs
        self._questions = timeline.questions
        self._messages = life.history[key]
        self._hidden = life.hidden[key]
        self._opened: Message | None = None
        self._question: Question | None = None

    def parts(self) -> Iterator[Part]:
        start = 0
        while start < len(self._messages):
            closes = self._closes(self._messages[start])
            run = self._closer(start) if closes else self._next(self._messages[start])
            opened, question = (self._opened, self._question) if closes else (None, None)
            hidden = start in self._hidden
            end = self._end(start, run)
            yield Part(run=run, messages=self._messages[start:end], hidden=hidden, opened=opened, question=question)
            if not (closes and hidden):  # else the journal closes the round once more
                self._opened = self._question = None
            question = None if run is None else self._questions.get(run.id)
            if question is not None and question.tools <= {*uses(self._messages[end - 1])}:
                self._opened, self._question = self._messages[end - 1], last_of(question, self._questions)
            start = end

    def _requests_input(self, message: Message) -> ObservedRun | None:
        said = message["content"][0].get("text", "")
        return self._texts.get(name_in(said)) if message["role"] == "user" else None

    def _next(self, message: Message) -> ObservedRun | None:
        """Return the run that begins with a message: one that continues another has the same text again."""
        run = self._requests_input(message)
        if run is None:
            return None
        nth = self._seen[run.text]
        self._seen[run.text] += 1
        return self._continuing[run.text][nth - 1] if 0 < nth <= len(self._continuing[run.text]) else run

    def _closes(self, message: Message) -> bool:
        answers = [block["toolResult"]["toolUseId"] for block in message["content"] if "toolResult" in block]
        return self._opened is not None and bool({*answers} & {*uses(self._opened)})

    def _closer(self, start: int) -> ObservedRun | None:
        """Return the run that closes the open round, None if none does."""
        assert self._question is not None
        two = self._messages[start : start + 2]
        if self._question.answer is None or (start not in self._hidden and last_text(two) == NOT_ANSWERED):
            return None
        return self._runs.get(self._question.answer.run_id)

    def _end(self, start: int, run: ObservedRun | None) -> int:
        question = None if run is None else self._questions.get(run.id)
        for n in range(start, len(self._messages)):
            message = self._messages[n]
            another = self._requests_input(message) or (n in self._hidden) is not (start in self._hidden)
            if n > start and another:
                return n
            if question is not None and question.tools <= {*uses(message)}:
                return n + 1
            if run is None and last_text([message]) == NOT_ANSWERED:
                return n + 1
        return len(self._messages)


def last_of(question: Question, questions: dict[str, Question]) -> Question:
    """Return the last question of a round: an answer may do nothing but ask again."""
    while (again := again_in_the_round(question, questions)) is not None:
        question = again
    return question


def again_in_the_round(question: Question, questions: dict[str, Question]) -> Question | None:
    """Return the question that the answer to another ends with, if tools of the same round ask it."""
    again = None if question.answer is None else questions.get(question.answer.run_id)
    return again if again is not None and _rounds(again) == _rounds(question) else None


def _rounds(question: Question) -> set[str]:
    """Return which rounds the tools that ask are of: each is named after its run, its round, its place there."""
    return {tool.rpartition(".")[0] for tool in question.tools}
