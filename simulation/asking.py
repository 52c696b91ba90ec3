"""Input requests: how tools name what they ask a person, and what is known of a question in the end."""

from msgspec import Struct

from strandline._model import JoinState, Run


def request_id(tool_use_id: str, given: int) -> str:
    """Return the id of what a tool asks when it was `given` so many answers."""
    return f"i:{tool_use_id}:{given}"


def asking_tool(request: str) -> str:
    """Return the toolUseId of the tool that asks."""
    return request.split(":")[1]


class Question(Struct, frozen=True, kw_only=True):
    """What a run that is kept has ended with."""

    run: Run
    answers: list[Run]
    """The runs that are kept as answers to it, in order of sequence; there may be one at most."""

    @property
    def requests(self) -> frozenset[str]:
        """The ids of its input requests, all answered together."""
        assert self.run.outcome is not None
        return frozenset(each.id for each in self.run.outcome.input_requests)

    @property
    def tools(self) -> frozenset[str]:
        """The tools that ask."""
        return frozenset(map(asking_tool, self.requests))

    @property
    def answer(self) -> Run | None:
        """The run that answers."""
        return self.answers[0] if self.answers else None


def questions_of(runs: dict[str, Run]) -> dict[str, Question]:
    """Return the questions of runs, by the id of the run that asks. One that has joined it only shows its question."""
    own = (each for each in runs.values() if each.outcome and each.join is not JoinState.APPLIED)
    found = {each.run_id: Question(run=each, answers=[]) for each in own}
    questions: dict[str, Question] = {run_id: each for run_id, each in found.items() if each.requests}
    by_request = {request: each for each in questions.values() for request in each.requests}
    for run in sorted(runs.values(), key=lambda run: run.sequence):
        requested = {by_request[each].run.run_id for each in answered_by(run) if each in by_request}
        for run_id in sorted(requested):
            questions[run_id].answers.append(run)
    return questions


def answered_by(run: Run) -> list[str]:
    """Return the input requests that a run answers."""
    blocks = [] if isinstance(run.input, str) else run.input
    return [block["interruptResponse"]["interruptId"] for block in blocks if "interruptResponse" in block]
