"""`python -m tools.pages` writes, into `docs/life-of-a-run.md`, what comes of runs that end in each way."""

from pathlib import Path
from typing import Final

from tools.pages.endings import blocks

PAGE: Final = Path(__file__).parents[2] / "docs" / "life-of-a-run.md"
BEGIN: Final = "<!-- from here made by: python -m tools.pages -->\n"
END: Final = "<!-- to here -->\n"


def section(endings: dict[str, str]) -> str:
    """Return the part of the page that shows `endings`, a block for each heading."""
    return "\n".join(f"### {title}\n```text\n{text}```\n" for title, text in endings.items())


if __name__ == "__main__":
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(before + BEGIN + section(blocks()) + END + rest.partition(END)[2])
