"""The pages use the words of the glossary, and plain ones: what a reader need not learn is not in them."""

import re
from typing import Final

import pytest

from docs.pages import DOCS, ROOT
from reference_tables import alerts_table, events_table, metrics_table, problems_table, settings_table

INSTEAD: Final = {
    r"whoever": "name the one who acts",
    r"told|tells?|telling": "say, show, answer, report",
    r"go on|goes on|went on": "continue, resume",
    r"stands(?! (?:in|for))": "is",
    r"principals?": "caller (`principal` in code)",
    r"given back": "requeued",
    r"staged|stages": "checkpoint",
    r"wish|wishes": "run options",
    r"settle[sd]?|settlement": "finish",
    r"verbs?": "operation",
    r"(?<!context )(?<!sliding )windows?": "context window",
    r"mend(?:s|ed)?": "fix",
}
OTHERS: Final = {"ARCHITECTURE.md", "CHANGELOG.md"}
"""Pages for those who work on the code, or of what was."""
FROM_CODE: Final = {
    line
    for table in (settings_table, problems_table, events_table, metrics_table, alerts_table)
    for line in table().splitlines()
}
PAGES: Final = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    if page.name not in OTHERS
)


def prose(page: str) -> str:
    """Return a page without its code, the targets of its links, and rows that are written in code."""
    lines = [line for line in (ROOT / page).read_text().splitlines() if line not in FROM_CODE]
    text = re.sub(r"^ *```.*?^ *```", "", "\n".join(lines), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`]*`|\]\([^)]*\)|<!--.*?-->", "", text)


@pytest.mark.parametrize("page", PAGES)
def test_pages_use_plain_words(page: str) -> None:
    found = {
        match[0]: instead
        for word, instead in INSTEAD.items()
        for match in re.finditer(rf"\b(?:{word})\b", prose(page), re.IGNORECASE)
    }
    assert found == {}, "the word, and what to write instead"


def test_the_glossary_has_twelve_words() -> None:
    words = re.findall(r"^\| \*\*([a-z ]+)\*\* \|", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert len(words) == len(set(words)) == 12
