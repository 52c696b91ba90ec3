"""The pages use the words of the glossary, and plain ones: what a reader need not learn is not in them."""

import re
from typing import Final

import pytest

from docs.pages import DOCS, ROOT

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
PAGES: Final = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    if page.name not in OTHERS
)


def prose(page: str) -> str:
    """Return a page without its code and the targets of its links."""
    text = re.sub(r"^ *```.*?^ *```", "", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)
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
