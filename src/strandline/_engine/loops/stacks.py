"""Where code is, for people: the frames of threads and of waiting tasks."""

import asyncio
import traceback
from typing import Any, Final

from strandline._compat.frames import awaited_in, frame_of, frames_of_threads
from strandline._engine.loops.calls import Call

DEEPEST: Final = 100
"""How many frames of a coroutine are shown."""


def stack_of(call: Call[Any], running: "asyncio.Task[Any] | None", ident: int | None) -> list[str]:
    """Return where a call's threads and tasks are: `running` is the task that has the thread `ident` of their loop."""
    frames = frames_of_threads()
    lines: list[str] = []
    for thread in call.threads:
        lines.append("a thread:" if thread.ident in frames else "waits for a thread")
        if thread.ident in frames:
            lines += _lines(traceback.extract_stack(frames[thread.ident]))
    for task in call.tasks:
        lines.append("a task, which has the loop's thread:" if task is running else "a task, which waits:")
        if task is running and ident in frames:
            lines += _lines(traceback.extract_stack(frames[ident]))
        else:
            lines += _lines(_suspended(task.get_coro()))
    return lines


def _suspended(coroutine: object | None) -> list[traceback.FrameSummary]:
    """Return where a coroutine waits: its frame, that of what it awaits, and so on."""
    found: list[traceback.FrameSummary] = []
    while coroutine is not None and len(found) < DEEPEST:
        frame = frame_of(coroutine)
        if frame is not None:
            found.append(traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        coroutine = awaited_in(coroutine)
    return found


def _lines(frames: "list[traceback.FrameSummary] | traceback.StackSummary") -> list[str]:
    return [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
