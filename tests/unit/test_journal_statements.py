"""What every statement of the journal keeps to, whatever Python it runs on."""

import ast
import re
from pathlib import Path

import pytest

JOURNAL = Path(__file__).parents[2] / "src" / "strandline" / "_journal"


@pytest.mark.parametrize("path", sorted(JOURNAL.glob("*.py")), ids=lambda path: path.stem)
def test_placeholders_have_no_numbers(path: Path) -> None:
    """Python 3.12.0 to 3.12.3 takes `?1` for a named one, and warns if its value comes in a sequence."""
    strings = [
        node.value
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]
    assert [each for each in strings if re.search(r"\?[0-9]", each)] == []
