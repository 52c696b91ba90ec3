"""How settings are laid out on a terminal: nothing is wider than it, nothing is left out, with colours or without."""

import io
import re

import pytest
from rich.console import Console

from strandline._cli import say
from strandline._cli.settings import WIDE, _print
from strandline._config import survey
from strandline._settings import Settings


@pytest.mark.parametrize("no_color", [True, False])
@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_every_setting_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, width: int, no_color: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, width=width, force_terminal=True, no_color=no_color, highlight=False)
    monkeypatch.setattr(say, "out", lambda: console)
    found = survey({"STRANDLINE_TIMEOUT": "soon", "PORT": "9000"})
    _print(found.settings)
    lines = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in text.getvalue().splitlines()]
    assert max(len(line.rstrip()) for line in lines) <= width
    assert [line.split()[0] for line in lines if line[:1].strip()] == list(Settings.__struct_encode_fields__)
    assert any("soon" in line and "STRANDLINE_TIMEOUT, WRONG" in line for line in lines)
    documented = " ".join(" ".join(lines).split())
    assert all(each.meaning in documented for each in found.settings) or width >= WIDE
    assert ("\x1b[1;31m" in text.getvalue()) is not no_color
