"""Tables of `docs/reference.md` that are made from code: `python tests/reference_tables.py` prints them."""

import sys

import msgspec

from strandline import errors
from strandline.config import ALIASES, PREFIX, default_of, descriptions
from strandline.http import wire
from strandline.http.event_schemas import RUN_EVENTS, SESSION_EVENTS
from strandline.model import ErrorCode


def settings_table() -> str:
    rows = ["| setting | variable | default | meaning |", "|---|---|---|---|"]
    for name, meaning in descriptions().items():
        variables = [PREFIX + name.upper(), *([ALIASES[name]] if name in ALIASES else [])]
        default = default_of(name)
        shown = (
            "none" if default in (None, []) else f"`{default:.12g}`" if isinstance(default, float) else f"`{default}`"
        )
        rows.append(f"| `{name}` | {', '.join(f'`{each}`' for each in variables)} | {shown} | {meaning} |")
    return "\n".join(rows)


def problems_table() -> str:
    rows = ["| status | code | meaning |", "|---|---|---|"]
    for kind, status in sorted(wire.STATUS.items(), key=lambda item: (item[1], item[0].code)):
        rows.append(f"| {status} | `{kind.code}` | {first_sentence(kind)} |")
    return "\n".join(rows)


def first_sentence(kind: type[errors.StrandlineError]) -> str:
    return " ".join((kind.__doc__ or "").split("\n\n")[0].split())


def events_table() -> str:
    rows = ["| event | data | meaning |", "|---|---|---|"]
    for kind in (*RUN_EVENTS, *SESSION_EVENTS):
        fields = ", ".join(f"`{field.encode_name}`" for field in msgspec.structs.fields(kind)) or "-"
        rows.append(f"| `{kind.__struct_config__.tag}` | {fields} | {' '.join((kind.__doc__ or '').split())} |")
    return "\n".join(rows)


def error_codes() -> list[str]:
    return [code.value for code in ErrorCode]


if __name__ == "__main__":
    sys.stdout.write(f"{settings_table()}\n\n{problems_table()}\n\n{events_table()}\n")
