"""Default options of a session, given to its runs: what no policy of a session changes."""

from typing import Any

import pytest

from strandline._journal.changes import encoded_body
from strandline._journal.defaults import with_defaults
from strandline._model import Firing, IfBusy, Lane, NewRun, OnQuestion, RunDefaults, RunId, ScheduleId
from strandline.testing._desk import key

FIRING = Firing(schedule_id=ScheduleId("s"), at=1.0, next_at=None, state=b"")


@pytest.mark.parametrize(
    "more", [{"fires": FIRING}, {"not_before": 9.0}, {"lane": Lane.ANSWER}], ids=["fired", "delayed", "answer"]
)
@pytest.mark.parametrize("if_busy", [each for each in IfBusy if each is not IfBusy.ENQUEUE])
def test_answers_and_what_comes_by_itself_neither_interrupt_nor_dismiss(if_busy: IfBusy, more: dict[str, Any]) -> None:
    new = NewRun(run_id=RunId("r"), key=key(), input="hi", created_at=1.0, **more)
    options = RunDefaults(if_busy=if_busy, on_question=OnQuestion.DISMISS, priority=1)
    merged, _ = with_defaults(new, encoded_body(new), options)
    assert (merged.if_busy, merged.on_question, merged.lane) == (new.if_busy, new.on_question, new.lane)
    assert merged.priority == 1
