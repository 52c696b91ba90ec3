"""The value of every setting in `strandline._settings`, and where it came from.

A value comes from, the first that has it: the command's flag (`--max-running 8`), the environment
(`STRANDLINE_MAX_RUNNING=8`), a TOML file (`max_running = 8` in `strandline.toml`), the default. The file is the one
that is named (`--config`, `STRANDLINE_CONFIG`), else that of the working folder. Agents may be able to write there, so
keys are only taken from a file that somebody has named, and `STRANDLINE_CONFIG=none` has no file read, as in the image.
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

from strandline._session_files.paths import SessionPaths
from strandline._settings import Settings
from strandline.errors import SettingsError

DEFAULT: Final = "default"
"""The origin of a setting that nobody gave."""
PREFIX: Final = "STRANDLINE_"
HIDDEN: Final = frozenset({"api_keys"})
"""Settings whose values are not shown: somebody may have written a key itself there."""
OF_CLIENTS: Final = frozenset({"STRANDLINE_API_KEY", "STRANDLINE_API_KEY_FILE"})
"""Variables of those who ask a server, and no settings of one."""
TOML_FILE: Final = "strandline.toml"
CONFIG: Final = "STRANDLINE_CONFIG"
"""The variable that names the file of settings, as `--config` does."""
NO_FILE: Final = "none"
"""Its value where no file is to be read unless `--config` names one."""
NAMED_ONLY: Final = ("api_keys", "api_keys_file")
"""Settings that decide who is let in, and as whom: taken only from a file that somebody has named."""
ALIASES: Final = {"agent_id": "AGENT_ID", "port": "PORT", "idle_timeout_minutes": "IDLE_TIMEOUT_MINUTES"}
"""Names of the environment that clients of the original runner set; `STRANDLINE_*` counts first."""

_SERVICE_LINK: Final = re.compile(
    r"\w+_(?:SERVICE_HOST=|SERVICE_PORT(?:_\w+)?=|PORT(?:_\d+_(?:TCP|UDP|SCTP))?=\w+://|"
    r"PORT_\d+_(?:TCP|UDP|SCTP)_(?:PROTO|PORT|ADDR)=)"
)
"""What Kubernetes (and Docker's links) put into the environment for a service of any name, ours too, begins so."""

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
"""What msgspec calls types, and what people do."""


class SettingState(Struct, frozen=True):
    """One setting as it stands: `value` is what was written, if that is wrong; `error` says why then."""

    name: str
    value: Any
    default: Any
    origin: str
    meaning: str
    error: str | None


def shown(told: SettingState) -> SettingState:
    """Return a setting as it may be shown to people."""
    if told.name not in HIDDEN or not told.value:
        return told
    count = len(told.value) if isinstance(told.value, list) else 1
    return msgspec.structs.replace(told, value=f"{count}, not shown")


class Survey(Struct, frozen=True):
    """All settings, what is wrong with the file that they are in, and remarks about what is no setting."""

    settings: list[SettingState]
    faults: list[str]
    remarks: list[str]

    @property
    def errors(self) -> list[str]:
        """Everything for which a server would refuse to start."""
        return [*self.faults, *(each.error for each in self.settings if each.error)]


_FOR_KEYS: Final = (f"{PREFIX}API_KEYS", f"{PREFIX}API_KEYS_FILE")


class Resolved(Struct, frozen=True):
    """Settings, and for each of them where its value came from, in words."""

    settings: Settings
    origins: dict[str, str]
    remarks: list[str]
    """What the log should say of where they were not taken from, and of what was perhaps meant as one."""


FIELDS: Final = dict(zip(Settings.__struct_encode_fields__, Settings.__struct_fields__, strict=True))
"""Of each setting by its name, the field that has it."""


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
    """Return the values that a setting of this type may have, if they are few."""
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
    """Return the settings in force. Raises `SettingsError` that names each that is wrong, its origin, what it may be.

    `flags` holds only what was given; `toml`, or else the variable `STRANDLINE_CONFIG`, names a file that must exist;
    else `strandline.toml` of `folder` (the current one) is read if it is there. `given` says where `flags` come from,
    if they are none of a command.
    """
    table, faults = _from_toml(toml, environ, folder or Path.cwd())
    values: dict[str, Any] = {}
    origins = dict.fromkeys(FIELDS, DEFAULT)
    hints = _hints()
    for source in (table, _from_environment(environ), _from_flags(flags, given)):
        for name, (raw, origin) in source.items():
            try:
                values[name] = _convert(name, raw, hints[name], origin)
            except SettingsError as wrong:
                faults.append(str(wrong))
            origins[name] = origin
    if faults:
        count = f"{len(faults)} things are wrong with the settings:\n\n" if len(faults) > 1 else ""
        raise SettingsError(count + "\n\n".join(faults))
    settings = Settings(**{FIELDS[name]: value for name, value in values.items()})
    if not settings.has_keys and (blank := [name for name in _FOR_KEYS if name in environ]):
        raise SettingsError(
            f"{blank[0]} is set and names no key, so nobody would have to show one. Put the line of a key there"
            " (strandline keys new NAME), or a file that has one; or unset it if everybody is to be let in."
        )
    if settings.idempotency_retention_s > settings.run_retention_s:
        name = "run_retention" if origins["run_retention"] != "default" else "idempotency_retention"
        raise SettingsError(
            f"{name} is {getattr(settings, FIELDS[name]):g} ({origins[name]}), but an idempotency key is kept with its"
            f" run: run_retention ({settings.run_retention_s:g} s) must not be below idempotency_retention"
            f" ({settings.idempotency_retention_s:g} s). Make the one longer or the other shorter."
        )
    if settings.history_retention_s is not None and settings.history_retention_s < settings.run_retention_s:
        raise SettingsError(
            f"history_retention is {settings.history_retention_s:g} ({origins['history_retention']}), but a session"
            " that is forgotten takes its runs and their idempotency keys along: it must not be below run_retention"
            f" ({settings.run_retention_s:g} s). Make the one longer or the other shorter."
        )
    _check_session_files(settings)
    return Resolved(settings, origins, _remarks(toml, environ, folder or Path.cwd()))


def _check_session_files(settings: Settings) -> None:
    """Raise `SettingsError` if files of sessions are wanted where there can be none."""
    if settings.session_files is None:
        if settings.session_files_names:
            raise SettingsError("session_files_names is set, but session_files is not. Name the folder there, too.")
        return
    place = SessionPaths(settings.session_files, settings.session_files_names)
    if settings.history == "external":
        raise SettingsError(
            "session_files is set, but with history=external the journal has no conversations to write: the agent's own"
            " session manager keeps them. Unset one of the two."
        )
    if settings.has_keys and not place.keeps_principals_apart:
        raise SettingsError(
            f"session_files is {settings.session_files}, and with keys two principals may have sessions of one name."
            f" Let it hold {{principal}}: {settings.session_files.rstrip('/')}/{{principal}}"
        )


def survey(environ: Mapping[str, str], *, toml: Path | None = None, folder: Path | None = None) -> Survey:
    """Return every setting as it stands, also where it is wrong, and whatever else is wrong with them. Never raises."""
    folder = folder or Path.cwd()
    table, faults = _from_toml(toml, environ, folder)
    found = table | _from_environment(environ)
    hints = _hints()
    told = []
    for name in FIELDS:
        value, origin = found.get(name, (default_of(name), DEFAULT))
        error = None
        try:
            value = _convert(name, value, hints[name], origin)
        except SettingsError as wrong:
            error = str(wrong)
        told.append(SettingState(name, value, default_of(name), origin, _description(hints[name]), error))
    return Survey(told, faults, _remarks(toml, environ, folder))


def journal_file(settings: Settings) -> Path | None:
    """Return the file that the journal is, None if it is no file."""
    kind, _, place = settings.journal.partition(":")
    return Path(place) if kind == "sqlite" and place else None


def check_exposure(settings: Settings) -> None:
    """Raise `SettingsError` if the server would listen beyond this machine without anybody having allowed it."""
    if settings.has_keys or settings.allow_anonymous or is_loopback(settings.host):
        return
    raise SettingsError(
        f"host is {settings.host}, so other machines could drive your agent, and nobody has to show a key. Make keys"
        " (strandline keys new NAME --file keys, and --api-keys-file keys), listen on 127.0.0.1, or set"
        " STRANDLINE_ALLOW_ANONYMOUS=1 if everybody who reaches this address may use the agent."
    )


def is_loopback(host: str) -> bool:
    """Return whether an address to listen on can be reached from this machine only."""
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


def _from_flags(flags: Mapping[str, Any], given: str | None) -> Source:
    for name in flags:
        if name not in FIELDS:
            raise SettingsError(f"`{name}` is no setting{_meant(name, FIELDS)}")
    return {name: (value, given or f"--{name.replace('_', '-')}") for name, value in flags.items() if value is not None}


def _from_environment(environ: Mapping[str, str]) -> Source:
    found: Source = {}
    for name in FIELDS:
        for variable in (PREFIX + name.upper(), ALIASES.get(name, "")):
            if environ.get(variable):
                found[name] = (environ[variable], variable)
                break
    return found


def _from_toml(given: Path | None, environ: Mapping[str, str], folder: Path) -> tuple[Source, list[str]]:
    """Return what the file says, and what is wrong with it."""
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
        return {}, [f"{shown} cannot be read: {error.strerror}. Name another file with --config, or mend this one."]
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        return {}, [f"{shown} cannot be read: {error}. It is TOML: a line for each setting, such as `port = 8080`."]
    faults = []
    for name in table:
        if name not in FIELDS:
            hint = _meant(name, FIELDS)
            faults.append(
                f"{shown} has `{name}`, which is no setting{hint or '.'} `strandline settings` shows all of them."
            )
    found = {name: (value, str(shown)) for name, value in table.items() if name in FIELDS}
    if path is None:
        faults += [
            f"{shown} has `{name}`, which is not taken from a file that nobody has named: whoever can write into this"
            f" folder, such as a tool of the agent, could let itself in. Name the file (--config {TOML_FILE}, or"
            f" {CONFIG}={TOML_FILE}) or set {PREFIX}{name.upper()}."
            for name in NAMED_ONLY
            if found.pop(name, None) is not None
        ]
    return found, faults


def _remarks(given: Path | None, environ: Mapping[str, str], folder: Path) -> list[str]:
    """Return what is no setting in force although somebody may think so. Nothing of it keeps a server from starting."""
    return [*_passed_over(given, environ, folder), *_misspelt_variables(environ)]


def _passed_over(given: Path | None, environ: Mapping[str, str], folder: Path) -> list[str]:
    """Return a remark if there is a file of settings that would be read elsewhere."""
    file = folder / TOML_FILE
    if given is not None or environ.get(CONFIG) != NO_FILE or not file.is_file():
        return []
    told = f"{file} is not read, since {CONFIG} is {NO_FILE}: agents can write where it is."
    return [f"{told} Mount it to another folder, and name it there with --config or {CONFIG}"]


def _misspelt_variables(environ: Mapping[str, str]) -> list[str]:
    """Return a remark for each variable that reads like a misspelt one of ours."""
    names = [name.upper() for name in FIELDS] + [CONFIG.removeprefix(PREFIX)]
    unknown = (name.removeprefix(PREFIX) for name in sorted(environ) if name.startswith(PREFIX))
    return [
        f"the variable {PREFIX}{name} is no setting{hint}"
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
    try:
        converted = msgspec.convert(value, kind, strict=False)
        if isinstance(converted, float) and not math.isfinite(converted):
            raise msgspec.ValidationError("Expected a number that is finite")
        return converted
    except msgspec.ValidationError as error:
        said = "not shown here" if name in HIDDEN else repr(raw)
        raise SettingsError(
            f"{name} is {said} ({origin}); it must be {_choices(kind) or _wanted(error)}. {_description(kind)}."
        ) from None


def _wanted(error: msgspec.ValidationError) -> str:
    """Say what was expected, in words of people: msgspec's name types."""
    expected = str(error).partition(", got")[0].partition(" - at")[0]
    for name, words in _TYPES.items():
        expected = expected.replace(f"`{name}`", words)
    return expected.removeprefix("Expected ").removesuffix(".0")


def _description(kind: Any) -> str:
    metas = [each for each in getattr(kind, "__metadata__", ()) if isinstance(each, Meta)]
    return next((each.description for each in metas if each.description), "")


def _choices(kind: Any) -> str:
    """Return the values that a setting of few values may have, or the forms of one that has to have one of them."""
    if few := choices(kind):
        return " or ".join(few)
    forms = [each.examples for each in getattr(kind, "__metadata__", ()) if isinstance(each, Meta) and each.examples]
    return " or ".join(f"`{form}`" for form in forms[0]) if forms else ""
