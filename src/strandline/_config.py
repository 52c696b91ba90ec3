"""The value of every setting in `strandline._settings`, and where it came from.

The first of these that has a value wins: the command's flag (`--max-running 8`), the environment
(`STRANDLINE_MAX_RUNNING=8`), a TOML file (`max_running = 8` in `strandline.toml`), the default. The file is the named
one (`--config`, `STRANDLINE_CONFIG`), else that of the working folder. Agents may be able to write there, so keys are
read only from a named file, and `STRANDLINE_CONFIG=none`, as in the image, reads no file.
"""

import difflib
import functools
import ipaddress
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from strandline._older_names import NEWER_SETTINGS, NEWER_VALUES
from strandline._printable import without_passwords, without_secrets
from strandline._session_files.paths import SessionPaths
from strandline._settings import Settings
from strandline.errors import SettingsError

DEFAULT: Final = "default"
"""The origin of a setting that is not set."""
PREFIX: Final = "STRANDLINE_"
HIDDEN: Final = frozenset({"api_keys"})
"""Settings whose values are not shown, since they may contain an API key by mistake."""
_URLS: Final = frozenset({"webhook"})
"""Settings that are URLs, of which the query may be a secret too."""
OF_CLIENTS: Final = frozenset({"STRANDLINE_API_KEY", "STRANDLINE_API_KEY_FILE"})
"""Variables of clients, which are not settings."""
TOML_FILE: Final = "strandline.toml"
CONFIG: Final = "STRANDLINE_CONFIG"
"""The variable that names the file of settings, as `--config` does."""
NO_FILE: Final = "none"
"""Its value to read no file unless `--config` names one."""
NAMED_ONLY: Final = ("api_keys", "api_keys_file")
"""Settings that grant access: read only from a named file."""
ALIASES: Final = {"agent_id": "AGENT_ID", "port": "PORT", "idle_timeout_minutes": "IDLE_TIMEOUT_MINUTES"}
"""Variables of the original runner; `STRANDLINE_*` takes precedence."""

_SERVICE_LINK: Final = re.compile(
    r"\w+_(?:SERVICE_HOST=|SERVICE_PORT(?:_\w+)?=|PORT(?:_\d+_(?:TCP|UDP|SCTP))?=\w+://|"
    r"PORT_\d+_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR)=)"
)
"""Matches the variables that Kubernetes (and Docker's links) set for a service, which may be called `strandline`."""

_TYPES: Final = {
    "int | null": "a whole number",
    "float | null": "a number",
    "int": "a whole number",
    "float": "a number",
    "str | null": "text",
    "str": "text",
    "bool": "true or false",
    "array": "a list",
}
"""msgspec's names of types, and plain words for them."""


class SettingState(Struct, frozen=True):
    """One setting and its value. If the value is wrong, it is shown as written, and `error` says why."""

    name: str
    value: Any
    default: Any
    origin: str
    meaning: str
    error: str | None


def shown(setting: SettingState) -> SettingState:
    """Return a setting without a value, or a part of it, that may be secret."""
    if isinstance(setting.value, str):
        setting = msgspec.structs.replace(setting, value=_without_secrets(setting.name, setting.value))
    if setting.name not in HIDDEN or not setting.value:
        return setting
    count = len(setting.value) if isinstance(setting.value, list) else 1
    return msgspec.structs.replace(setting, value=f"{count}, not shown")


def _without_secrets(name: str, text: str) -> str:
    return without_secrets(text) if name in _URLS else without_passwords(text)


class Survey(Struct, frozen=True):
    """All settings, the errors of the names that set them, and remarks about names that are not settings."""

    settings: list[SettingState]
    faults: list[str]
    remarks: list[str]

    @property
    def errors(self) -> list[str]:
        """All errors that keep a server from starting."""
        return [*self.faults, *(each.error for each in self.settings if each.error)]


_FOR_KEYS: Final = (f"{PREFIX}API_KEYS", f"{PREFIX}API_KEYS_FILE")


class Resolved(Struct, frozen=True):
    """Settings, and where the value of each came from, in words."""

    settings: Settings
    origins: dict[str, str]
    remarks: list[str]
    """Log lines about a file that was not read, and variables that look like misspelt settings."""


FIELDS: Final = dict(zip(Settings.__struct_encode_fields__, Settings.__struct_fields__, strict=True))
"""The field of each setting, by the setting's name."""


def descriptions() -> dict[str, str]:
    """Return the meaning of each setting, in the order of the record."""
    hints = _hints()
    return {name: _description(hints[name]) for name in FIELDS}


def default_of(name: str) -> Any:
    """Return the default of a setting."""
    return getattr(Settings(), FIELDS[name])


def kind_of(name: str) -> Any:
    """Return the type of a setting, with its limits."""
    return _hints()[name]


def choices(kind: Any) -> tuple[str, ...]:
    """Return the values that a setting of this type may have, if it is a choice."""
    inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    for each in (inner, *get_args(inner)):
        if get_origin(each) is Literal:
            return get_args(each)
        if isinstance(each, type) and issubclass(each, StrEnum):
            return tuple(each)
    return ()


def resolve(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    *,
    toml: Path | None = None,
    folder: Path | None = None,
    given: str | None = None,
) -> Resolved:
    """Return the settings in force. Raises `SettingsError`, which names each wrong one, its origin and what it may be.

    `flags` has only flags that were given. `toml`, or else the variable `STRANDLINE_CONFIG`, names a file that must
    exist; without them `strandline.toml` of `folder` (default: the working folder) is read if it exists. `given` says
    where `flags` come from, if not from a command line.
    """
    table, faults = _from_toml(toml, environ, folder or Path.cwd())
    values: dict[str, Any] = {}
    origins = dict.fromkeys(FIELDS, DEFAULT)
    hints = _hints()
    for source in (table, _from_environment(environ, faults), _from_flags(flags, given, faults)):
        for name, (raw, origin) in source.items():
            try:
                values[name] = _convert(name, raw, hints[name], origin)
            except SettingsError as wrong:
                faults.append(str(wrong))
            origins[name] = origin
    if faults:
        count = f"the settings have {len(faults)} errors:\n\n" if len(faults) > 1 else ""
        raise SettingsError(count + "\n\n".join(faults))
    settings = Settings(**{FIELDS[name]: value for name, value in values.items()})
    if not settings.has_keys and (blank := [name for name in _FOR_KEYS if name in environ]):
        raise SettingsError(
            f"{blank[0]} is set but has no key, so everybody would have access. Set it to the line of a key"
            " (strandline keys new NAME), or to a file that has one; or unset it if no key is to be required."
        )
    if settings.idempotency_retention_s > settings.run_retention_s:
        name = "run_retention" if origins["run_retention"] != "default" else "idempotency_retention"
        raise SettingsError(
            f"{name} is {getattr(settings, FIELDS[name]):g} ({origins[name]}), but an idempotency key is stored with"
            f" its run: run_retention ({settings.run_retention_s:g} s) must not be below idempotency_retention"
            f" ({settings.idempotency_retention_s:g} s). Raise the former or lower the latter."
        )
    if settings.history_retention_s is not None and settings.history_retention_s < settings.run_retention_s:
        raise SettingsError(
            f"history_retention is {settings.history_retention_s:g} ({origins['history_retention']}), but a session is"
            " deleted with its runs and their idempotency keys: it must not be below run_retention"
            f" ({settings.run_retention_s:g} s). Raise the former or lower the latter."
        )
    _check_session_files(settings)
    return Resolved(settings, origins, _remarks(toml, environ, folder or Path.cwd()))


def _check_session_files(settings: Settings) -> None:
    """Raise `SettingsError` if `session_files` cannot work with the other settings."""
    if settings.session_files is None:
        if settings.session_files_names:
            raise SettingsError(
                "session_files_names is set, but session_files is not. Set session_files to the folder."
            )
        return
    paths = SessionPaths(settings.session_files, settings.session_files_names)
    if settings.history == "session_manager":
        raise SettingsError(
            "session_files is set, but with history=session_manager the agent's own session manager stores the"
            " conversations, so there is nothing to write. Unset one of the two."
        )
    if settings.has_keys and not paths.keeps_principals_apart:
        raise SettingsError(
            f"session_files is {settings.session_files}, and with keys two callers may have sessions of the same name."
            f" Add {{caller}}: {settings.session_files.rstrip('/')}/{{caller}}"
        )


def survey(environ: Mapping[str, str], *, toml: Path | None = None, folder: Path | None = None) -> Survey:
    """Return every setting with its value, even a wrong one, and all errors. Never raises."""
    folder = folder or Path.cwd()
    table, faults = _from_toml(toml, environ, folder)
    found = table | _from_environment(environ, faults)
    hints = _hints()
    settings = []
    for name in FIELDS:
        value, origin = found.get(name, (default_of(name), DEFAULT))
        error = None
        try:
            value = _convert(name, value, hints[name], origin)
        except SettingsError as wrong:
            error = str(wrong)
        settings.append(SettingState(name, value, default_of(name), origin, _description(hints[name]), error))
    return Survey(settings, faults, _remarks(toml, environ, folder))


def journal_file(settings: Settings) -> Path | None:
    """Return the journal's file, None if it is in none."""
    kind, _, path = settings.journal.partition(":")
    return Path(path) if kind == "sqlite" and path else None


def journal_database(settings: Settings) -> str | None:
    """Return the address of the database that the journal is in, None if it is in none. It may have a password."""
    return settings.journal if settings.journal.startswith(("postgresql://", "postgres://")) else None


def workspaces_folder(settings: Settings) -> Path:
    """Return the folder that has the workspaces of sessions."""
    if settings.workspace is not None:
        return Path(settings.workspace)
    file = journal_file(settings)
    return (Path(".strandline") if file is None else file.parent) / "workspace"


def files_folder(settings: Settings) -> Path | None:
    """Return the folder that has uploaded files; None: none is set, and the journal is in no file."""
    if settings.files is not None:
        return Path(settings.files)
    file = journal_file(settings)
    return None if file is None else file.with_name(f"{file.name}.files")


def check_exposure(settings: Settings) -> None:
    """Raise `SettingsError` if the server would listen beyond this machine without keys or permission."""
    if settings.has_keys or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise SettingsError(
        f"host is {settings.host}, so other machines could use your agent without a key. Make keys (strandline keys new"
        " NAME --file keys, and --api-keys-file keys), listen on 127.0.0.1, or set STRANDLINE_ALLOW_ANONYMOUS=1 if"
        " everybody who reaches this address may use the agent."
    )


def exposed_to_all(settings: Settings) -> str | None:
    """Return a warning if everyone who reaches the server may use it."""
    if settings.has_keys or is_loopback(settings.host):
        return None
    names = "".join(f", {each}" for each in settings.allowed_hosts) or " and no other name"
    return (
        f"everyone who reaches {settings.host} may use the agent: no key is required. Requests are answered under IP"
        f" addresses, localhost{names} (setting allowed_hosts)"
    )


def check_servers(settings: Settings) -> None:
    """Raise `SettingsError` if several servers are wanted over a journal that only one can use."""
    if settings.servers == 1 or journal_database(settings) is not None:
        return
    raise SettingsError(
        f"servers is {settings.servers}, and the journal is {settings.journal}, which only one server can use. Set"
        " journal to a PostgreSQL database (postgresql://...), which servers share; or use `workers`, with which one"
        " server spreads its agents over processes."
    )


def is_loopback(host: str) -> bool:
    """Return whether a listening address can be reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


@functools.cache
def _hints() -> dict[str, Any]:
    hints = get_type_hints(Settings, include_extras=True)
    return {name: hints[field] for name, field in FIELDS.items()}


Source = dict[str, tuple[Any, str]]
"""Settings by their names, each with its value as written, and its origin."""


def _is_setting(name: str) -> bool:
    return name in FIELDS or name in NEWER_SETTINGS


def _by_newer_name(written: Source, faults: list[str]) -> Source:
    """Return settings by their names, whichever names were used. Adds an error for each that has two values."""
    found = {name: entry for name, entry in written.items() if name in FIELDS}
    for older, name in NEWER_SETTINGS.items():
        if older not in written:
            continue
        value, origin = written[older]
        if name in found and found[name][0] != value:
            faults.append(
                f"{name} is {found[name][0]!r} ({found[name][1]}), and by its older name {older} it is {value!r}"
                f" ({origin}). Set one of the two."
            )
        found.setdefault(name, (value, origin))
    return found


def _from_flags(flags: Mapping[str, Any], given: str | None, faults: list[str]) -> Source:
    for name in flags:
        if not _is_setting(name):
            raise SettingsError(f"`{name}` is not a setting{_meant(name, FIELDS)}")
    written = {
        name: (value, given or f"--{name.replace('_', '-')}") for name, value in flags.items() if value is not None
    }
    return _by_newer_name(written, faults)


def _from_environment(environ: Mapping[str, str], faults: list[str]) -> Source:
    written: Source = {}
    for name in (*FIELDS, *NEWER_SETTINGS):
        for variable in (PREFIX + name.upper(), ALIASES.get(name, "")):
            if environ.get(variable):
                written[name] = (environ[variable], variable)
                break
    return _by_newer_name(written, faults)


def _from_toml(given: Path | None, environ: Mapping[str, str], folder: Path) -> tuple[Source, list[str]]:
    """Return the settings in the file, and its errors."""
    named = environ.get(CONFIG)
    path = given or (Path(named) if named else None)
    file = path or folder / TOML_FILE
    shown = file if path else TOML_FILE
    if given is None and named == NO_FILE:
        return {}, []
    if path is None and not file.is_file():
        return {}, []
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        return {}, [f"{shown} cannot be read: {error.strerror}. Fix it, or name another file with --config."]
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {}, [
            f"{shown} cannot be read: {error}. It must be TOML, with a line for each setting, such as `port = 8080`."
        ]
    faults = []
    for name in table:
        if not _is_setting(name):
            hint = _meant(name, FIELDS)
            faults.append(
                f"{shown} has `{name}`, which is not a setting{hint or '.'} `strandline settings` shows all of them."
            )
    written = {name: (value, str(shown)) for name, value in table.items() if _is_setting(name)}
    found = _by_newer_name(written, faults)
    if path is None:
        faults += [
            f"{shown} has `{name}`, which is read only from a file that you name: anything that can write into this"
            f" folder, such as a tool of the agent, could grant itself access. Name the file (--config {TOML_FILE}, or"
            f" {CONFIG}={TOML_FILE}) or set {PREFIX}{name.upper()}."
            for name in NAMED_ONLY
            if found.pop(name, None) is not None
        ]
    return found, faults


def _remarks(given: Path | None, environ: Mapping[str, str], folder: Path) -> list[str]:
    """Return remarks about a file or variables that look like settings but have no effect."""
    return [*_passed_over(given, environ, folder), *_misspelt_variables(environ)]


def _passed_over(given: Path | None, environ: Mapping[str, str], folder: Path) -> list[str]:
    """Return a remark if a settings file exists that `STRANDLINE_CONFIG=none` ignores."""
    file = folder / TOML_FILE
    if given is not None or environ.get(CONFIG) != NO_FILE or not file.is_file():
        return []
    remark = f"{file} is not read, because {CONFIG} is {NO_FILE}: agents can write to its folder."
    return [f"{remark} Mount it into another folder, and name it with --config or {CONFIG}"]


def _misspelt_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a remark for each variable that looks like a misspelt setting."""
    names = [name.upper() for name in (*FIELDS, *NEWER_SETTINGS)] + [CONFIG.removeprefix(PREFIX)]
    unknown = (name.removeprefix(PREFIX) for name in sorted(environ) if name.startswith(PREFIX))
    return [
        f"the variable {PREFIX}{name} is not a setting{hint}"
        for name in unknown
        if name not in names
        and PREFIX + name not in OF_CLIENTS
        and not _SERVICE_LINK.match(f"{PREFIX}{name}={environ[PREFIX + name]}")
        and (hint := _meant(name, names, PREFIX))
    ]


def _meant(name: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
    return f"; did you mean `{prefix}{close[0]}`?" if close else ""


def _convert(name: str, raw: Any, kind: Any, origin: str) -> Any:
    listed = isinstance(default_of(name), list)
    value = [item.strip() for item in raw.split(",") if item.strip()] if listed and isinstance(raw, str) else raw
    if isinstance(value, str):
        value = NEWER_VALUES.get(name, {}).get(value, value)
    try:
        converted = msgspec.convert(value, kind, strict=False)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise msgspec.ValidationError("Expected a finite number")
        return converted
    except msgspec.ValidationError as error:
        said = "not shown here" if name in HIDDEN else _without_secrets(name, repr(raw))
        raise SettingsError(
            f"{name} is {said} ({origin}); it must be {_choices(kind) or _wanted(error)}. {_description(kind)}."
        ) from None


def _wanted(error: msgspec.ValidationError) -> str:
    """Return in plain words what was expected: msgspec names types."""
    expected = str(error).partition(", got")[0].partition(" - at")[0]
    for name, words in _TYPES.items():
        expected = expected.replace(f"`{name}`", words)
    return expected.removeprefix("Expected ").removesuffix(".0")


def _description(kind: Any) -> str:
    metas = [each for each in getattr(kind, "__metadata__", ()) if isinstance(each, Meta)]
    return next((each.description for each in metas if each.description), "")


def _choices(kind: Any) -> str:
    """Return the choices of a setting, or its examples; empty if it has neither."""
    if few := choices(kind):
        return " or ".join(few)
    forms = [each.examples for each in getattr(kind, "__metadata__", ()) if isinstance(each, Meta) and each.examples]
    return " or ".join(f"`{form}`" for form in forms[0]) if forms else ""
