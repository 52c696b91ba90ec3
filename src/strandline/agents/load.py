"""How a TARGET is found: `package.module:name`, `path/file.py:name`; without `:name`, `make_agent`, then `agent`.

Every way in which a TARGET can be wrong is a `TargetError` that says what to write instead. Frameworks are imported
only when a target of theirs is at hand.
"""

import functools
import importlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from strandline.agents.port import Target
from strandline.errors import TargetError

DEFAULT_NAMES: Final = ("make_agent", "agent")
FACTORY_EXAMPLE: Final = "def make_agent(session_id):\n    return Agent(...)"
FUNCTION_EXAMPLE: Final = "async def answer(message, session):\n    return ..."


def load_target(text: str) -> Target:
    """Import what `text` names and return what serves it. Raises `TargetError`."""
    where, _, name = text.partition(":")
    if not where:
        raise TargetError(
            f"TARGET {text!r} names no module: write `path/file.py`, `path/file.py:name` or `package:name`"
        )
    module = _import(where)
    found, thing = _pick(module, where, name)
    return target_for(thing, f"{where}:{found}")


def target_for(thing: object, description: str) -> Target:
    """Return what serves `thing`, a factory or a plain function. Raises `TargetError` with what to write instead."""
    _refuse_instances(thing, description)
    if not callable(thing):
        raise TargetError(
            f"{description} is {type(thing).__name__!r}, which cannot be served. It must be a factory that makes an"
            f" agent:\n\n{FACTORY_EXAMPLE}\n\nor an async function that answers a message:\n\n{FUNCTION_EXAMPLE}"
        )
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        signature = inspect.Signature()
    parameters = [
        parameter
        for parameter in signature.parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    answers = inspect.iscoroutinefunction(thing) or inspect.isasyncgenfunction(thing)
    if len(parameters) == 2:
        if not answers:
            raise TargetError(
                f"{description} takes (message, session) but is not async, so it would block every other session:"
                f" write\n\n{FUNCTION_EXAMPLE}\n\nand call blocking code in it with `await asyncio.to_thread(...)`"
            )
        from strandline.agents.function import FunctionTarget

        return FunctionTarget(thing, description=f"function {description}")
    if len(parameters) > 2 or inspect.isasyncgenfunction(thing):
        raise TargetError(
            f"{description} takes {len(parameters)} parameters. A factory takes none or one, the session's id:"
            f"\n\n{FACTORY_EXAMPLE}\n\nA function takes two, the message and the session:\n\n{FUNCTION_EXAMPLE}"
        )
    if parameters and parameters[0].name in ("message", "prompt", "input", "text", "query"):
        raise TargetError(
            f"{description} takes ({parameters[0].name}), which reads like a function that answers: it must take the"
            f" session too:\n\n{FUNCTION_EXAMPLE}\n\nA factory's one parameter is the session's id:"
            f"\n\n{FACTORY_EXAMPLE}"
        )
    from strandline.agents.strands import StrandsTarget

    factory: Callable[..., Any] = thing
    by_name = not parameters and "session_id" in signature.parameters
    if by_name:
        factory = functools.wraps(thing)(lambda session_id: thing(session_id=session_id))
    return StrandsTarget(factory, takes_session_id=by_name or bool(parameters), description=f"factory {description}")


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
    if "" not in sys.path and str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(where)
    except ModuleNotFoundError as error:
        if error.name is not None and (where == error.name or where.startswith(f"{error.name}.")):
            raise TargetError(
                f"there is no module {where!r} here. For a file, write its path: `{where.replace('.', '/')}.py`"
            ) from None
        raise TargetError(_import_failure(where, error)) from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise TargetError(_import_failure(where, error)) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        what = "is a folder, not a file" if path.is_dir() else "does not exist"
        raise TargetError(f"{path} {what}. TARGET is the path of a Python file, seen from {Path.cwd()}")
    if path.suffix != ".py":
        raise TargetError(f"{path} is not a Python file: its name must end in .py")
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
        raise TargetError(_import_failure(str(path), error)) from error
    return module


def _import_failure(where: str, error: BaseException) -> str:
    """Say in one paragraph why an import failed, with the line in the user's own file."""
    reason = "".join(traceback.format_exception_only(error)).strip()
    if isinstance(error, SyntaxError):
        return f"{where} cannot be imported:\n\n{reason}"
    own = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith("<") and frame.filename not in (__file__, importlib.__file__)
    ]
    frames = [frame for frame in own if "site-packages" not in frame.filename] or own
    line = f"\n\n  {frames[-1].filename}, line {frames[-1].lineno}:\n    {frames[-1].line}" if frames else ""
    hint = ""
    if isinstance(error, ModuleNotFoundError):
        hint = f"\n\nInstall it where strandline is installed, or correct the name {error.name!r}."
    return f"{where} cannot be imported: {reason}{line}{hint}"


def _refuse_instances(thing: object, description: str) -> None:
    """Refuse objects that hold one conversation and would share it between all sessions."""
    kinds = {f"{kind.__module__}.{kind.__qualname__}".split(".")[0]: kind.__name__ for kind in type(thing).__mro__}
    name = kinds.get("strands")
    if name is None or isinstance(thing, type):
        return
    what = type(thing).__name__
    if what in ("Graph", "Swarm"):
        raise TargetError(
            f"{description} is a {what}. Its nodes keep what is said, so one cannot serve many sessions, and Strandline"
            " does not yet see into it. Serve it as an async function that makes one anew for each message:\n\n"
            f"async def answer(message, session):\n    result = await build_{what.lower()}().invoke_async(message)\n"
            "    return str(result)"
        )
    raise TargetError(
        f"{description} is one {what}, but every session needs an agent of its own. Put the line that makes it into a"
        f" factory:\n\n{FACTORY_EXAMPLE}"
    )
