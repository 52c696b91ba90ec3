"""Names that were replaced by clearer ones, and that users have: both live.

Input may use either, output has both. docs/compatibility.md lists them (a test compares).
"""

from collections.abc import Mapping
from typing import Any, Final

SETTINGS: Final = {
    "max_running_per_caller": "max_running_per_principal",
    "max_queued_per_caller": "max_queued_per_principal",
    "max_stored_bytes_per_caller": "max_stored_bytes_per_principal",
    "max_still_working": "max_holds",
    "max_still_working_per_caller": "max_holds_per_principal",
    "unlock_after": "hold_limit",
    "stream_truncate_bytes": "stream_cut",
}
"""The older name of a setting: as a flag, a variable, a key in TOML and a keyword."""
NEWER_SETTINGS: Final = {older: name for name, older in SETTINGS.items()}
VALUES: Final = {"history": {"session_manager": "external"}, "unknown_tool": {"resume": "tell"}}
"""The older names of a setting's values."""
NEWER_VALUES: Final = {setting: {older: value for value, older in values.items()} for setting, values in VALUES.items()}
FIELDS: Final = {
    "RunBody": {"locks_session": "held"},
    "SessionBody": {"locked_by": "held", "caller": "principal"},
    "HealthBody": {"locked_sessions": "held", "callers": "principals"},
    "CallerBody": {"still_working": "leftovers"},
}
"""The older names of fields in answers, by the name of the body in OpenAPI."""
PRINTED: Final = {
    "doctor": {"message": "told"},
    "journal verify": {"locked_sessions": "held"},
}
"""The older names of fields that commands print with `--json`."""
OPTIONS: Final = {"journal import": {"--caller": "--principal"}}
"""The older names of commands' options that are no settings."""
CALLER: Final = "{caller}"
OLDER_CALLER: Final = "{principal}"
"""A placeholder of `session_files`."""


def by_both_names(record: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Return what a command prints, with the older names added."""
    return {**record, **{older: record[name] for name, older in PRINTED[command].items()}}


def field_note(body: str, field: str) -> str:
    """Return the description of a field with an older name."""
    newer = {older: name for name, older in FIELDS[body].items()}
    return f"Older name of `{newer[field]}`, with the same value"
