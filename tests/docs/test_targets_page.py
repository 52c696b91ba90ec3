"""`docs/targets.md`: every file is served, and the table is whole."""

import re

from docs.pages import files, text

PAGE = text("targets.md")


def test_every_file_but_the_model_is_served() -> None:
    served = set(re.findall(r"^strandline serve (\w+\.py)", PAGE, re.MULTILINE))
    assert served == files("targets.md").keys() - {"mymodel.py"}


def test_the_table_has_a_cell_for_every_kind() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("|")]
    assert len(rows) > 8
    assert {row.count("|") for row in rows} == {7}
