"""The current frames of threads, coroutines and generators."""

import gc
import inspect
import sys
from types import FrameType
from typing import Any


def frames_of_threads() -> dict[int, FrameType]:
    """Return the innermost frame of each thread, by the thread's identifier."""
    return sys._current_frames()


def frame_of(awaited: object) -> FrameType | None:
    """Return the frame of a coroutine or generator; None for others, such as futures."""
    return _first(awaited, "cr_frame", "ag_frame", "gi_frame")  # type: ignore[no-any-return]


def awaited_in(awaited: object) -> object | None:
    """Return the object that a coroutine or generator awaits; None if it is unknown.

    Only the garbage collector maps a step of an asynchronous generator to its generator.
    """
    inner: object | None = _first(awaited, "cr_await", "ag_await", "gi_yieldfrom")
    if inner is None and type(awaited).__name__.startswith("async_generator"):
        inner = next((each for each in gc.get_referents(awaited) if inspect.isasyncgen(each)), None)
    return inner


def _first(thing: object, *names: str) -> Any:
    return next((found for name in names if (found := getattr(thing, name, None)) is not None), None)
