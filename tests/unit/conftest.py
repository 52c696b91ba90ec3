"""What every test of the engine looks at besides: nothing is left to close in what an agent has closed."""

import pytest

from strandline._agents.port import Finished
from strandline._engine.execution import LiveAttempt
from strandline._history import close, close_answer
from strandline._model import Message


@pytest.fixture(autouse=True)
def nothing_is_left_to_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Close once more whatever an agent has closed: it has to stay as it is."""
    closed = LiveAttempt.closed

    def checked(attempt: LiveAttempt, finished: Finished) -> tuple[list[Message], bool]:
        messages, is_whole = closed(attempt, finished)
        if finished.closed and attempt.progress.question_state is not None:
            again = close_answer(attempt.so_far(), attempt.results, finished.ending, begun=attempt.begun)
            assert again == messages
        elif finished.closed:
            assert close(attempt.so_far(), attempt.results, finished.ending) == messages
        return messages, is_whole

    monkeypatch.setattr(LiveAttempt, "closed", checked)
