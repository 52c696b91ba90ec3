"""Decodes reports of a worker, even if an agent's result does not fit the form of one."""

from typing import Any, Final

from msgspec import ValidationError, convert

from strandline._encoding import decoder
from strandline._workers import messages as m

_read: Final = decoder(list[m.Report])
_read_any: Final = decoder(list[Any])


def reports(data: bytes) -> list[m.Report]:
    """Decode a frame of reports. A malformed `Done` fails its own call only."""
    try:
        return _read(data)
    except ValidationError:
        return [_report(each) for each in _read_any(data)]


def _report(raw: Any) -> m.Report:
    try:
        report: m.Report = convert(raw, m.Report)
        return report
    except ValidationError as error:
        if raw.get("type") != "done":
            raise
        failure = m.Failure(type(error).__name__, f"the agent returned a result that cannot be stored: {error}")
        return m.Done(call=raw["call"], resumable=raw["resumable"], failure=failure, alive=raw["alive"])
