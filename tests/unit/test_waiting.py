"""What a stream of text alone says of a run that waits for a person."""

from strandline._engine.events import RunPosition, RunQueued, RunStarted
from strandline._http.dialects.waiting import Waiting
from strandline._model import InputRequest, SessionId


def test_each_question_is_printed_once_however_often_the_run_moves() -> None:
    waiting = Waiting({"type": "http", "root_path": ""}, SessionId("s"))
    first = [InputRequest(id="i1", name="pay", reason="sure?")]
    second = [InputRequest(id="i2", name="send", reason={"to": "ada"}), InputRequest(id="i3", name="log", reason=None)]
    assert waiting.heard(RunPosition(3, None)) == ""
    shown = waiting.heard(RunQueued(2, None, None, first))
    assert "pay: sure?" in shown
    assert 'POST /v1/sessions/s/runs with {"input":{"responses":[{"id":"i1","response":null}]}}' in shown
    assert shown.endswith("\n\n")
    for again in (RunPosition(1, None, None, first), RunPosition(1, None), RunPosition(1, None, None, first)):
        assert waiting.heard(again) == ""
    assert 'send: {"to":"ada"}; log - to' in waiting.heard(RunPosition(1, None, None, second))
    assert waiting.heard(RunStarted(1)) == ""
