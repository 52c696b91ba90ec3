"""`strandline serve`: one flag per setting, generated from the settings themselves."""

import inspect
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn

import typer
from msgspec.structs import replace

from strandline._cli import say
from strandline._cli.complete import TARGETS, TOML, one_of
from strandline._config import OF_CLIENTS, PREFIX, choices, default_of, descriptions, kind_of, resolve
from strandline._exits import REFUSED
from strandline._older_names import NEWER_SETTINGS
from strandline.errors import SettingsError, StrandlineError

if TYPE_CHECKING:
    from strandline._settings import Settings
    from strandline._supervision.child import Child

_log = logging.getLogger("strandline")


def _serve(
    target: str | None = None,
    config: Path | None = None,
    verbose: bool = False,
    reload: bool = False,
    handed_over: str | None = None,
    **flags: Any,
) -> None:
    """Serve TARGET over HTTP until SIGTERM or Ctrl-C.

    TARGET is `path/file.py`, `path/file.py:name` or `package.module:name`. It names a function that returns a
    Strands agent for a session, or an async function that answers a message. The default name is `make_agent`, the
    default TARGET `agent.py` in this folder.
    """
    with say.errors_reported():
        child = _child(handed_over)
        if child is not None and child.settings is not None:
            _run(str(target), child.settings, child)
        resolved = resolve(flags, os.environ, toml=config)
        from strandline._agents.load import default_target

        target = target or default_target()
        settings = resolved.settings
        if reload:
            if settings.servers > 1:
                raise SettingsError(
                    f"servers is {settings.servers} ({resolved.origins['servers']}), and --reload has one server after"
                    " the other. Leave one of the two out; for development, one server is enough: --servers 1"
                )
            raise typer.Exit(_reload(target, config, verbose, flags, settings))
        from strandline._logs import log_to_stderr

        if verbose:
            settings = replace(settings, log_level="debug")
        log_to_stderr(level=settings.log_level, form=settings.log_format, details=settings.log_details)
        if child is not None and settings.log_level == "info":
            child.quieten()
        for remark in resolved.remarks:
            _log.warning("%s", remark)
        if not settings.has_keys and (misplaced := OF_CLIENTS & os.environ.keys()):
            sentence = "%s is for clients, and gives nobody access here: a server reads its keys from %sAPI_KEYS_FILE"
            _log.warning(sentence, ", ".join(sorted(misplaced)), PREFIX)
        if settings.servers > 1:
            from strandline._supervision.servers import supervise

            with _errors_logged(settings.log_format):
                raise typer.Exit(supervise(target, settings, _announcer(settings.log_format)))
        _run(target, settings, child)


def _run(target: str, settings: "Settings", child: "Child | None") -> NoReturn:
    """Serve in this process, and exit."""
    from strandline._composition import served
    from strandline._logs import log_to_stderr
    from strandline._server import run

    if settings.servers > 1:
        log_to_stderr(
            level=settings.log_level, form=settings.log_format, details=settings.log_details, server=os.getpid()
        )
    with _errors_logged(settings.log_format), served(target, settings) as loaded:
        code = run(
            loaded,
            settings,
            announce=child.announce if child else _announcer(settings.log_format),
            handover=child.wait_for_turn() if child else None,
        )
    raise typer.Exit(code)


@contextmanager
def _errors_logged(form: str) -> Iterator[None]:
    """Log what keeps the server from starting, if its log is for programs."""
    try:
        yield
    except StrandlineError as error:
        if form == "text":
            raise
        _log.error("%s", error)
        raise typer.Exit(REFUSED) from None
    finally:
        from strandline._logs import flush

        flush()  # before an error is printed


def _announcer(form: str) -> Callable[[str], None]:
    """Return the function that announces a ready server: to people, or in a log for programs."""
    if form == "json":
        return lambda line: _log.info("%s", line)
    from strandline import _logs as logs

    return logs.say


def _child(handed_over: str | None) -> "Child | None":
    if handed_over is None:
        return None
    from strandline._supervision.child import Child

    return Child(handed_over)


def _reload(target: str, config: Path | None, verbose: bool, flags: dict[str, Any], settings: "Settings") -> int:
    """Serve in child processes, with the same arguments."""
    from strandline import _logs as logs
    from strandline._reload.parent import plan, supervise

    logs.log_to_stderr(level="warning")
    arguments = [target, *(("--config", str(config)) if config else ()), *(("--verbose",) if verbose else ())]
    for name, value in flags.items():
        flag = name.replace("_", "-")
        match value:
            case None:
                continue
            case bool():
                arguments.append(f"--{flag}" if value else f"--no-{flag}")
            case _:
                arguments += [f"--{flag}", str(value)]
    return supervise(plan(target, arguments, config, settings), logs.say)


def _flag(name: str, meaning: str) -> inspect.Parameter:
    """Return the flag of a setting for Typer; `_config` checks its value. That of an older name is hidden."""
    setting = NEWER_SETTINGS.get(name, name)
    default = default_of(setting)
    hidden = name != setting
    flag = f"--{name.replace('_', '-')}"
    help_text = f"{meaning} [{_shown(default)}]"
    if isinstance(default, bool):
        kind: Any = bool | None
        option = typer.Option(f"{flag}/--no-{flag[2:]}", help=help_text, show_default=False, hidden=hidden)
    else:
        kind = str | None
        values = choices(kind_of(setting))
        offered = one_of(*values) if values else None
        metavar = "|".join(values) if values and not isinstance(default, list) else _metavar(default)
        option = typer.Option(flag, help=help_text, metavar=metavar, autocompletion=offered, hidden=hidden)
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kind, option])


def _shown(default: object) -> str:
    match default:
        case bool():
            return "yes" if default else "no"
        case None:
            return "none"
        case list():
            return ", ".join(each if isinstance(each, str) else f"{each:.15g}" for each in default) or "none"
        case _:
            return f"{default:.15g}" if isinstance(default, float) else str(default)


def _metavar(default: object) -> str:
    if isinstance(default, float):
        return "SECONDS"
    if isinstance(default, int):
        return "N"
    return "LIST" if isinstance(default, list) else "TEXT"


def _with_flags() -> Callable[..., None]:
    """Give the command one flag per setting."""
    parameters = [
        inspect.Parameter(
            "target",
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
            default=None,
            annotation=Annotated[
                str | None,
                typer.Argument(
                    help="What to serve [agent.py]",
                    metavar="TARGET",
                    show_default=False,
                    autocompletion=TARGETS,
                ),
            ],
        ),
        inspect.Parameter(
            "config",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                Path | None,
                typer.Option("--config", help="TOML file with settings [strandline.toml]", autocompletion=TOML),
            ],
        ),
        inspect.Parameter(
            "verbose",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")],
        ),
        inspect.Parameter(
            "reload",
            inspect.Parameter.KEYWORD_ONLY,
            default=False,
            annotation=Annotated[
                bool, typer.Option("--reload", help="Restart with the new code when Python files or settings change.")
            ],
        ),
        inspect.Parameter(
            "handed_over",
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, typer.Option("--handed-over", hidden=True)],
        ),
        *(_flag(name, meaning) for name, meaning in descriptions().items()),
        *(_flag(older, f"Older name of --{name.replace('_', '-')}.") for older, name in NEWER_SETTINGS.items()),
    ]
    _serve.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    _serve.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return _serve


serve: Final = _with_flags()
