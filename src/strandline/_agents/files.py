"""Has models see the files that messages name.

The agent's own messages, its window and history keep the references: only what a model is called with has the contents.
A model's object gets functions of its own for that, once it is to see a file, so that a conversation manager that calls
it itself (to summarize) works too. They change nothing outside of a run, nor for messages without files.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from strandline._agents.abnormal_exit import CURRENT
from strandline._agents.port import RunContext
from strandline._files.blocks import FILE, FileReader, has_files
from strandline._model import SessionKey

_SEES: Final = "_strandline_sees_files"


def files_of(context: RunContext) -> FileReader | None:
    """Return what reads the files of a run's session; None if there are none."""
    if context.files_root is None:
        return None
    return FileReader(context.files_root, SessionKey(context.principal, context.session_id), context.workspace)


def show_files(model: Any) -> None:
    """Have a model see the files that the messages of its calls name."""
    if getattr(model, _SEES, False):
        return
    for name, at in (("stream", 0), ("count_tokens", 0), ("structured_output", 1)):
        if (original := getattr(model, name, None)) is not None:
            call = _counted if name == "count_tokens" else _streamed
            setattr(model, name, functools.wraps(original)(functools.partial(call, original, at)))
    setattr(model, _SEES, True)


def as_messages(args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of an agent's call, with content blocks that name a file as a message: Strands takes only
    blocks that it knows itself for content."""
    prompt = args[0] if args else named.get("prompt")
    if not isinstance(prompt, list) or not any(isinstance(each, dict) and FILE in each for each in prompt):
        return args, named
    message = [{"role": "user", "content": prompt}]
    return ((message, *args[1:]), named) if args else (args, {**named, "prompt": message})


async def _streamed(original: Callable[..., AsyncIterator[Any]], at: int, /, *args: Any, **named: Any) -> Any:
    """Call a model that answers with a stream."""
    args, named = await _with_files(at, args, named)
    async for event in original(*args, **named):
        yield event


async def _counted(original: Callable[..., Any], at: int, /, *args: Any, **named: Any) -> Any:
    args, named = await _with_files(at, args, named)
    return await original(*args, **named)


async def _with_files(at: int, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Return the arguments of a call, with the contents of files in the messages, which are argument `at`."""
    exits = CURRENT.get()
    name = "messages" if at == 0 else "prompt"
    messages = args[at] if len(args) > at else named.get(name)
    if exits is None or exits.files is None or not messages or not has_files(messages):
        return args, named
    seen = await asyncio.to_thread(exits.files.expanded, messages)
    if len(args) > at:
        return (*args[:at], seen, *args[at + 1 :]), named
    return args, {**named, name: seen}
