"""Loads a TARGET: `package.module:name`, `path/file.py:name`; without `:name`, `make_agent`, then `agent`.

Every wrong TARGET raises a `TargetError` that says what to write instead. A framework is imported only for a target of
its own.
"""

import difflib
import functools
import importlib
import importlib.util
import inspect
import os
import sys
import sysconfig
import traceback
from collections.abc import Collection
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from strandline._agents.parameters import INJECTED, PRINCIPAL, SESSION, Parameters, others, required
from strandline._agents.port import Target
from strandline.errors import SetupError, TargetError

DEFAULT_FILE: Final = "agent.py"
DEFAULT_NAMES: Final = ("make_agent", "agent")
FACTORY_EXAMPLE: Final = "def make_agent(session_id):\n    return Agent(...)"
KEEPER_EXAMPLE: Final = (
    "def make_agent(session_id, principal):\n"
    '    return Agent(session_manager=FileSessionManager(session_id, storage_dir=f"kept/{principal}"))'
)
FUNCTION_EXAMPLE: Final = "async def answer(message, session):\n    return ..."
MESSAGES: Final = frozenset({"message", "prompt", "input", "text", "query"})
"""Parameter names that identify a function that answers."""
MOST_FRAMES: Final = 4
"""How many lines of the user's code an error shows."""
_PACKAGE: Final = Path(__file__).resolve().parents[1]
_STDLIB: Final = frozenset(Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "platstdlib"))
_INSTALLED: Final = frozenset({"site-packages", "dist-packages"})


def default_target() -> str:
    """Return the target to serve without a TARGET: `agent.py` here. Raises `TargetError` if there is none."""
    file = Path(DEFAULT_FILE)
    if file.is_file():
        return DEFAULT_FILE
    what = f"{DEFAULT_FILE} here is a folder" if file.is_dir() else f"there is no {DEFAULT_FILE} here"
    raise TargetError(
        f"{what} (in {Path.cwd()}), and no TARGET is named. `strandline init` makes one; for another file, write"
        " `strandline serve path/file.py`"
    )


def load_target(text: str, *, history: str = "journal", keys: bool = False) -> Target:
    """Import the TARGET that `text` names. Raises `TargetError`.

    `history` is the setting: `journal`, or `external` for agents whose session managers keep their conversations.
    `keys`: whether callers have API keys, so that there are several principals.
    """
    where, _, name = text.partition(":")
    if not where:
        raise TargetError(
            f"TARGET {text!r} names no module: write `path/file.py`, `path/file.py:name` or `package:name`"
        )
    module = _import(where)
    found, thing = _pick(module, where, name)
    return target_for(thing, f"{where}:{found}", history=history, keys=keys)


def target_for(thing: object, description: str, *, history: str = "journal", keys: bool = False) -> Target:
    """Return the target for a factory, an async function, a callable object, or one agent.

    Raises `TargetError` with what to write instead.
    """
    self_managed = history == "session_manager"
    if _is_agent(thing):
        return _instance(thing, description, self_managed=self_managed)
    _refuse_instances(thing, description)
    _refuse_classes(thing, description)
    if inspect.isbuiltin(thing):
        raise TargetError(
            f"{description} is {thing.__name__!r}, which is built into Python and makes no agent. Define a factory:"
            f"\n\n{FACTORY_EXAMPLE}"
        )
    if not callable(thing):
        raise TargetError(
            f"{description} is {type(thing).__name__!r}, which cannot be served. It must be a factory that makes an"
            f" agent:\n\n{FACTORY_EXAMPLE}\n\nor an async function that answers a message:\n\n{FUNCTION_EXAMPLE}"
        )
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        signature = inspect.Signature()
    code = _code(thing)
    generates = inspect.isasyncgenfunction(code)
    takes = Parameters.of(signature)
    names = required(signature)
    answers = len(names) == 2 and PRINCIPAL not in names and (takes is None or generates)
    _refuse_keywords(signature, description, given=() if answers else INJECTED)
    if answers:
        is_async = generates or inspect.iscoroutinefunction(code)
        return _function(thing, description, names, is_async=is_async, history=history)
    _refuse_misread(signature, description)
    if takes is None or generates:
        raise TargetError(_ungiven(signature, description))
    if inspect.isgeneratorfunction(code):
        raise TargetError(
            f"{description} is a generator, because there is a `yield` in it. A factory returns one agent:"
            f"\n\n{FACTORY_EXAMPLE}"
        )
    if keys and self_managed and not takes.principal:
        raise TargetError(
            f"{description} does not take `principal`, the caller's name. There are API keys, and with"
            " history=session_manager the agents' session managers store what is said: two callers who use the same"
            f" session id would meet in one conversation. Take it, and give each caller"
            f" a folder of its own:\n\n{KEEPER_EXAMPLE}"
        )
    from strandline._agents.factory import FactoryTarget

    return FactoryTarget(thing, takes=takes, description=f"factory {description}", self_managed=self_managed)


def _function(thing: Any, description: str, names: list[str], *, is_async: bool, history: str) -> Target:
    """Return the target for a function of a message and a session. Raises `TargetError`."""
    if not is_async:
        if SESSION in names:
            raise TargetError(_ungiven(inspect.signature(thing), description))
        raise TargetError(
            f"{description} takes (message, session) but is not async, so it would block every other session:"
            f" write\n\n{FUNCTION_EXAMPLE}\n\nand call blocking code in it with `await asyncio.to_thread(...)`"
        )
    if history == "session_manager":
        raise TargetError(
            f"{description} is a function. The setting history=session_manager is for factories of agents with a"
            " session manager: leave it out. The journal stores what is said to a function, which need not use"
            " `session.messages`"
        )
    from strandline._agents.function import FunctionTarget

    return FunctionTarget(thing, description=f"function {description}")


def _ungiven(signature: inspect.Signature, description: str) -> str:
    """Say which parameters of a factory get no argument."""
    left, count = others(signature), len(required(signature))
    named = left and (len(left) < count or SESSION in signature.parameters)
    takes = (
        f"{' and '.join(f'`{name}`' for name in left)}, which Strandline does not pass"
        if named
        else f"{count} parameters"
    )
    return (
        f"{description} takes {takes}. A factory takes the session's id, `principal` (the caller's name), both or"
        f" nothing:\n\n{FACTORY_EXAMPLE}\n\nA function takes two, the message and the session:\n\n{FUNCTION_EXAMPLE}"
    )


def _refuse_misread(signature: inspect.Signature, description: str) -> None:
    """Refuse a function that takes a message without a session: it would be called as a factory."""
    match others(signature):
        case [name] if name in MESSAGES:
            raise TargetError(
                f"{description} takes ({', '.join(required(signature))}), which reads like a function that answers: it"
                f" must take the session too, which has `session.id` and `session.principal`:\n\n{FUNCTION_EXAMPLE}"
                f"\n\nA factory's one parameter is the session's id:\n\n{FACTORY_EXAMPLE}"
            )


def _pick(module: ModuleType, where: str, name: str) -> tuple[str, object]:
    for candidate in [name] if name else DEFAULT_NAMES:
        thing: Any = module
        try:
            for part in candidate.split("."):
                thing = getattr(thing, part)
        except AttributeError:
            continue
        return candidate, thing
    public = [each for each, value in vars(module).items() if not each.startswith("_") and callable(value)]
    defined = [each for each in public if getattr(vars(module)[each], "__module__", None) == module.__name__]
    hint = f" It defines: {', '.join(defined)}." if defined else ""
    if name:
        raise TargetError(f"{where} has no `{name}`.{hint} Write `{where}:NAME` with a name that it has.")
    raise TargetError(
        f"{where} has neither `make_agent` nor `agent`.{hint} Define a factory:\n\n{FACTORY_EXAMPLE}\n\nor name what to"
        f" serve: `{where}:NAME`"
    )


def _import(where: str) -> ModuleType:
    if where.endswith(".py") or "/" in where or where.startswith("."):
        return _import_file(Path(where))
    named = Path(where)
    if named.is_file() or (named.is_dir() and not (named / "__init__.py").exists()):
        return _import_file(named)  # which says what to write
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise TargetError(f"there is no module {where!r} here, and no such file{_file_meant(where)}") from None
        raise TargetError(_import_failure(where, error, Path.cwd())) from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise TargetError(_import_failure(where, error, Path.cwd())) from error


def _file_meant(where: str) -> str:
    """Suggest a replacement for a name that is neither a module nor a file of this folder."""
    path = Path(where.replace(".", "/") + ".py")
    if path.is_file():
        return f". For a file, write its path: `{path}`"
    here = [each.name for each in Path.cwd().glob("*.py")]
    stem = Path(where).stem if Path(where).suffix.lower() not in ("", ".py") else where
    close = difflib.get_close_matches(f"{stem}.py".lower(), here, n=1, cutoff=0.8)
    if close:
        return f"; did you mean `{close[0]}`?"
    return f" (seen from {Path.cwd()}). Name a Python file, `path/file.py`; `strandline init` makes an agent.py here"


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        if path.is_dir():
            found = next((each for each in (path / DEFAULT_FILE, *sorted(path.glob("*.py"))) if each.is_file()), None)
            hint = f" Name a file in it: `{found}`" if found else " There is no Python file in it: name another"
            raise TargetError(f"{path} is a folder, not a file.{hint}")
        close = difflib.get_close_matches(path.name, [each.name for each in path.parent.glob("*.py")], n=1)
        hint = f"; did you mean `{path.parent / close[0]}`?" if close else ". `strandline init` makes an agent.py here"
        raise TargetError(f"{path} does not exist, seen from {Path.cwd()}{hint}")
    if path.suffix != ".py":
        raise TargetError(f"{path} is not a Python file: its name must end in .py")
    if not os.access(path, os.R_OK):
        raise TargetError(f"{path} may not be read by this user. Change its owner or its rights: chmod u+r {path}")
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    name = path.stem
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) != str(path.resolve()):
        name = f"strandline_target_{name}"
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise TargetError(_import_failure(str(path), error, path.resolve().parent)) from error
    return module


def _import_failure(where: str, error: BaseException, folder: Path) -> str:
    """Say in one paragraph why an import failed, with lines of the user's own files, if possible in `folder`."""
    if isinstance(error, SyntaxError) and Path(error.filename or "").is_file():
        reason = "".join(traceback.format_exception_only(error)).strip()
        return f"{where} cannot be imported:\n\n  {reason}"
    lines = own_lines(error, folder)
    if isinstance(error, SetupError):  # our own error says what to do
        return f"{where} cannot be served: {error}{lines}"
    reason = "".join(traceback.format_exception_only(error)).strip()
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = f"\n\nInstall it where strandline is installed, or correct the name {error.name!r}."
    return f"{where} cannot be imported: {reason}{lines}{hint}"


def own_lines(error: BaseException, folder: Path) -> str:
    """Return the user's own lines of a traceback, as text to append to the reason."""
    frames = _own_frames(traceback.extract_tb(error.__traceback__), folder)
    return "".join(f"\n\n  {frame.filename}, line {frame.lineno}:\n    {frame.line}" for frame in frames)


def _own_frames(frames: list[traceback.FrameSummary], folder: Path) -> list[traceback.FrameSummary]:
    """Return the user's own frames: in `folder`, else here, else in the last file that is not Python's own.

    The last few, the innermost last, without those of frameworks and of Strandline.
    """
    files = [
        (frame, Path(frame.filename).resolve())
        for frame in frames
        if not frame.filename.startswith("<") and not _is_ours(Path(frame.filename))
    ]
    installed = [(frame, file) for frame, file in files if not _INSTALLED.isdisjoint(file.parts)]
    own = [each for each in files if each not in installed and _STDLIB.isdisjoint(each[1].parents)]
    for each in (folder, Path.cwd()):
        frames = [frame for frame, file in own if each in file.parents]
        if frames:
            return frames[-MOST_FRAMES:]
    return [frame for frame, _ in (own or installed)][-1:]


def _is_ours(file: Path) -> bool:
    return _PACKAGE in file.resolve().parents


def _code(thing: object) -> object:
    """Return the function that runs when `thing` is called, such as the `__call__` of its class."""
    while isinstance(thing, functools.partial):
        thing = thing.func
    if inspect.isroutine(thing) or isinstance(thing, type):
        return thing
    return type(thing).__call__ if callable(thing) else thing


def _refuse_keywords(signature: inspect.Signature, description: str, *, given: Collection[str]) -> None:
    """Refuse a callable with a required keyword that is not in `given`."""
    needed = [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
        and parameter.default is parameter.empty
        and parameter.name not in given
    ]
    if needed:
        raise TargetError(
            f"{description} needs the keyword {' and '.join(f'`{name}`' for name in needed)}, which"
            f" Strandline does not pass. Give it a default, or write a factory that passes it:\n\n{FACTORY_EXAMPLE}"
        )


def _refuse_classes(thing: object, description: str) -> None:
    """Refuse classes, except subclasses of `strands.Agent`, which are factories."""
    if not isinstance(thing, type):
        return
    if any(each.__name__ == "Agent" and each.__module__.split(".")[0] == "strands" for each in thing.__mro__):
        return
    raise TargetError(
        f"{description} is a class that makes no Strands agent. Write a factory that returns an agent:"
        f"\n\n{FACTORY_EXAMPLE}\n\nor an object with `async def __call__(self, message, session)`, and name the object:"
        f"\n\nanswer = {thing.__name__}()"
    )


def _is_agent(thing: object) -> bool:
    return "strands.agent.agent.Agent" in (f"{kind.__module__}.{kind.__qualname__}" for kind in type(thing).__mro__)


def _instance(agent: Any, description: str, *, self_managed: bool) -> Target:
    if self_managed:
        raise TargetError(
            f"{description} is one Agent. With history=session_manager its session manager would keep one conversation"
            " for all sessions: write a factory that gives each session an agent and a session manager of its own:\n\n"
            "def make_agent(session_id):\n    return Agent(session_manager=FileSessionManager(session_id=session_id))"
        )
    from strandline._agents.singleton import SingletonTarget

    return SingletonTarget(agent, description=f"agent {description}")


def _refuse_instances(thing: object, description: str) -> None:
    """Refuse other objects of Strands that hold one conversation and would share it between all sessions."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}".split(".")[0]: kind.__name__ for kind in type(thing).__mro__}
    if "strands" not in kinds or isinstance(thing, type):
        return
    what = type(thing).__name__
    if what in ("Graph", "Swarm"):
        name = what.lower()
        raise TargetError(
            f"{description} is one {what}, whose nodes remember a conversation, but every session needs its own. Move"
            f" the lines that make it and its agents into a factory:\n\ndef make_{name}(session_id):\n"
            f"    ...\n    return {'builder.build()' if what == 'Graph' else 'Swarm([...])'}"
        )
    raise TargetError(
        f"{description} is one {what}, which cannot be served. Write a factory that makes an agent:"
        f"\n\n{FACTORY_EXAMPLE}"
    )
