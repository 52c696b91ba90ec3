"""Reads what a worker reports. What an agent has made of its end may be nothing that a report can hold."""

from typing import Any, Final

from msgspec import ValidationError, convert

from strandline._encoding import decoder
from strandline._workers import messages as m

_read: Final = decoder(list[m.Report])
_read_any: Final = decoder(list[Any])


def reports(data: bytes) -> list[m.Report]:
    """Read a frame of reports. A call whose end has not the form of one has failed: its own run only, and no other."""
    try:
        return _read(data)
    except ValidationError:
        return [_report(each) for each in _read_any(data)]


def _report(told: Any) -> m.Report:
    try:
        report: m.Report = convert(told, m.Report)
        return report
    except ValidationError as error:
        if told.get("type") != "done":
            raise
        failure = m.Failure(type(error).__name__, f"the agent has ended in a form that cannot be kept: {error}")
        return m.Done(call=told["call"], resumable=told["resumable"], failure=failure, alive=told["alive"])
