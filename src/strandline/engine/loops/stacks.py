"""Where code is, for people: the frames of threads, and of tasks that wait."""

import asyncio
import gc
import inspect
import sys
import traceback
from typing import Any, Final

from strandline.engine.loops.calls import Call

DEEPEST: Final = 100
"""How many frames of a coroutine are shown."""


def stack_of(call: Call[Any], running: "asyncio.Task[Any] | None", ident: int | None) -> list[str]:
    """Return where a call's threads and tasks are: `running` is the task that has the thread `ident` of their loop."""
    frames = sys._current_frames()
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


def _suspended(coroutine: Any) -> list[traceback.FrameSummary]:
    """Return where a coroutine waits: its frame, that of what it awaits, and so on."""
    found: list[traceback.FrameSummary] = []
    while coroutine is not None and len(found) < DEEPEST:
        frame = _first(coroutine, "cr_frame", "ag_frame", "gi_frame")
        if frame is not None:
            found.append(traceback.FrameSummary(frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name))
        coroutine = _first(coroutine, "cr_await", "ag_await", "gi_yieldfrom") or _generator_of(coroutine)
    return found


def _generator_of(step: object) -> object | None:
    """Return the asynchronous generator whose next step is awaited; only the garbage collector knows it."""
    if not type(step).__name__.startswith("async_generator"):
        return None
    return next((each for each in gc.get_referents(step) if inspect.isasyncgen(each)), None)


def _first(thing: object, *names: str) -> Any:
    return next((found for name in names if (found := getattr(thing, name, None)) is not None), None)


def _lines(frames: "list[traceback.FrameSummary] | traceback.StackSummary") -> list[str]:
    return [f"  {frame.filename}:{frame.lineno} in {frame.name}" for frame in frames]
