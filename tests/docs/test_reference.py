"""`docs/reference.md` names every route, setting and code, and says of them what the code says."""

import ast
import re
from pathlib import Path

import pytest

from reference_tables import error_codes, events_table, problems_table, settings_table

ROOT = Path(__file__).parents[2]
REFERENCE = (ROOT / "docs" / "reference.md").read_text()


@pytest.mark.parametrize(
    "row", [*settings_table().splitlines(), *problems_table().splitlines(), *events_table().splitlines()]
)
def test_the_reference_has_every_setting_error_and_event_as_in_code(row: str) -> None:
    assert row in REFERENCE, "print the rows with: python tests/reference_tables.py"


@pytest.mark.parametrize("code", error_codes())
def test_every_error_code_of_a_run_is_explained(code: str) -> None:
    assert f"| `{code}` |" in REFERENCE


def test_every_route_is_listed_and_no_other() -> None:
    tree = ast.parse((ROOT / "src/strandline/_http/app/build.py").read_text())
    routes = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Route":
            path = ast.literal_eval(node.args[0])
            methods = next(ast.literal_eval(each.value) for each in node.keywords if each.arg == "methods")
            routes |= {f"{method} {path}" for method in methods}
    listed = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", REFERENCE, re.MULTILINE))
    assert routes == listed


def test_every_code_made_by_the_error_handler_is_listed() -> None:
    made = re.findall(r"wire\.problem\([\w.]+, \"(\w+)\"", (ROOT / "src/strandline/_http/app/errors.py").read_text())
    assert {"not_found", "method_not_allowed", "internal_error"} <= set(made)
    for code in set(made) - {"error"}:
        assert f"| `{code}` |" in REFERENCE
