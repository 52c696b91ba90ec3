"""Tables of `docs/reference.md` that are made from code: `python tests/reference_tables.py` prints them."""

import sys
from pathlib import Path

import msgspec
import yaml  # type: ignore[import-untyped]

from strandline import errors
from strandline._config import ALIASES, PREFIX, default_of, descriptions
from strandline._http import wire
from strandline._http.app.event_schemas import RUN_EVENTS, SESSION_EVENTS
from strandline._model import ErrorCode
from strandline._telemetry.catalogue import METRICS

ROOT = Path(__file__).parents[1]


def settings_table() -> str:
    rows = ["| setting | variable | default | meaning |", "|---|---|---|---|"]
    for name, meaning in descriptions().items():
        variables = [PREFIX + name.upper(), *([ALIASES[name]] if name in ALIASES else [])]
        default = default_of(name)
        values = default if isinstance(default, list) else [] if default is None else [default]
        shown = ", ".join(f"{each:.12g}" if isinstance(each, float) else str(each) for each in values)
        written = f"`{shown}`" if values else "none"
        rows.append(f"| `{name}` | {', '.join(f'`{each}`' for each in variables)} | {written} | {meaning} |")
    return "\n".join(rows)


def problems_table() -> str:
    rows = ["| status | code | meaning |", "|---|---|---|"]
    for kind, status in sorted(wire.STATUS.items(), key=lambda item: (item[1], item[0].code)):
        rows.append(f"| {status} | `{kind.code}` | {first_sentence(kind)} |")
    return "\n".join(rows)


def metrics_table() -> str:
    rows = ["| metric | kind | labels | meaning |", "|---|---|---|---|"]
    for each in METRICS:
        labels = ", ".join(f"`{label}`" for label in each.labels)
        rows.append(f"| `{each.shown}` | {each.kind} | {labels} | {each.meaning} |")
    return "\n".join(rows)


def alerts_table() -> str:
    """Return the alerts of `deploy/prometheus/rules.yaml`."""
    groups = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yaml").read_text())["groups"]
    rows = ["| alert | when | severity |", "|---|---|---|"]
    for rule in (rule for group in groups for rule in group["rules"]):
        expression = rule["expr"].replace("|", "\\|")
        lasts = f", for {rule['for']}" if "for" in rule else ""
        rows.append(f"| `{rule['alert']}` | `{expression}`{lasts} | {rule['labels']['severity']} |")
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
    sys.stdout.write(f"\n{metrics_table()}\n\n{alerts_table()}\n")
