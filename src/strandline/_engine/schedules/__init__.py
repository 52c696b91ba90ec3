"""Schedules: runs that are accepted again and again, at the times of a calendar.

`instants` computes these times, `schedule` has the records, `Schedules` fires what is due and is what callers use. The
journal moves a schedule to its next time in the transaction that accepts its run, so each time fires once.
"""

from strandline._engine.schedules.instants import Missed, Overlap, When
from strandline._engine.schedules.schedule import (
    Schedule,
    ScheduleChange,
    ScheduleRequest,
    ScheduleView,
    ScheduleViews,
    new_schedule_id,
    view_of,
)
from strandline._engine.schedules.schedules import SchedulePage, Schedules

__all__ = [
    "Missed",
    "Overlap",
    "Schedule",
    "ScheduleChange",
    "SchedulePage",
    "ScheduleRequest",
    "ScheduleView",
    "ScheduleViews",
    "Schedules",
    "When",
    "new_schedule_id",
    "view_of",
]
