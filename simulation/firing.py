"""What a server does for schedules: each run of one has a text of its own, by its time, and is written down when it is
accepted, as a client writes down what it requests."""

from collections.abc import Callable
from itertools import count
from typing import Any

from msgspec.structs import replace

from simulation.loop import EPOCH, Chance
from simulation.record import Record
from simulation.script import Script, Traits, draw
from strandline._engine.service import Service
from strandline._journal.partitions import suffix_of
from strandline._journal.port import Accepted, Journal
from strandline._model import DEFAULT_PRIORITY, IfBusy, NewRun, OnDisconnect, OnQuestion, ScheduleId, SessionKey
from strandline.errors import Unavailable


class Firings:
    """The runs of all schedules of a world, over all its servers."""

    def __init__(self, chance: Chance, scripts: dict[str, Script], traits: Traits, record: Record) -> None:
        self._chance = chance
        self._scripts = scripts
        self._traits = traits
        self._record = record
        self._made = count(1)

    def new_id(self, key: SessionKey) -> ScheduleId:
        """Return the id of a new schedule."""
        return ScheduleId(f"sch_{next(self._made):020x}{suffix_of(key)}")

    def write_down(self, journal: Journal, monotonic: Callable[[], float]) -> None:
        """Have the runs of schedules that a journal accepts be written down."""
        accepts = journal.accept

        async def accept(new: NewRun, *given: Any, **more: Any) -> Any:
            if new.fires is None or new.fires.at is None:
                return await accepts(new, *given, **more)
            text = _text(new, new.fires.at)
            new = replace(new, input=text, metadata={**new.metadata, "text": text})
            if text not in self._scripts:
                self._scripts[text] = draw(self._chance, self._traits)
                self._record.note(monotonic(), "requested", text, **_details(new))
            answer = await accepts(new, *given, **more)
            if isinstance(answer, Accepted):
                known = {"text": text, "session": new.key, "position": answer.position}
                more_known = {"joins": None, "attached": False, "replayed": False}
                self._record.note(monotonic(), "accepted", new.run_id, **known, **more_known)
            return answer

        journal.accept = accept  # type: ignore[method-assign]

    def write_down_refusals(self, service: Service, monotonic: Callable[[], float]) -> None:
        """Have the times be written down whose runs a server refuses, before or after it asks its journal."""
        admission = service._admission
        fires = admission.fire

        async def fire(new: NewRun) -> Any:
            try:
                return await fires(new)
            except Unavailable:
                if new.fires is not None and new.fires.at is not None:
                    self._record.note(monotonic(), "put_off", _text(new, new.fires.at))
                raise

        admission.fire = fire  # type: ignore[method-assign]


def _text(new: NewRun, at: float) -> str:
    """Return what a run of a schedule says at a time."""
    return f"{new.metadata['text']}@{round((at - EPOCH) * 1000)}"


def _details(new: NewRun) -> dict[str, Any]:
    return {
        "session": new.key,
        "if_busy": IfBusy.ENQUEUE,
        "priority": DEFAULT_PRIORITY,
        "key": None,
        "on_disconnect": OnDisconnect.CONTINUE,
        "on_question": OnQuestion.WAIT,
        "answers": (),
        "expected": None,
        "not_before_s": None,
        "sender": None,
        "limits": {},
    }
