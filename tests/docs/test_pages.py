"""The pages are true: their blocks do what is shown, no block is left out, links lead somewhere, and facts are those of
the code. What is particular about a page stands in `page_table.py`."""

import re
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Final

import pytest

from docs.page_run import Page, PageRun, steps
from docs.page_table import PAGES
from docs.pages import DOCS, ROOT, all_blocks, text

WITH_BLOCKS: Final = [
    page.name for page in [*sorted(ROOT.glob("*.md")), *sorted(DOCS.glob("*.md"))] if all_blocks(page.name)
]
LINKING: Final = sorted(
    page.relative_to(ROOT).as_posix()
    for page in [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "examples").rglob("*.md")]
)


def entry(name: str) -> Page:
    return PAGES.get(name, Page())


@pytest.mark.parametrize("name", [name for name in WITH_BLOCKS if steps(name, entry(name))[0]])
def test_a_page_does_what_it_shows(name: str, tmp_path: Path) -> None:
    page = entry(name)
    with ExitStack() as stack:
        run = PageRun(page, tmp_path, stack)
        for step in steps(name, page)[0]:
            run.execute(step)


@pytest.mark.parametrize("name", WITH_BLOCKS)
def test_no_block_of_a_page_is_left_out(name: str) -> None:
    done, unknown = steps(name, entry(name))
    assert [each.place for each in unknown] == [], "name their test in tests/docs/page_table.py"
    for each in all_blocks(name):
        if each.language == "python":
            compile(each.text, each.place, "exec")
    others = {each.line: each.text for each in all_blocks(name)}
    for step in done:
        if step.block.file is not None and step.output is None:
            stem = step.block.file.removesuffix(".py")
            using = [
                line for line, other in others.items() if line != step.block.line and re.search(rf"\b{stem}\b", other)
            ]
            assert using, f"{step.block.place}: nothing on the page uses {step.block.file}"


@pytest.mark.parametrize("name", PAGES)
def test_what_the_table_names_is_there(name: str) -> None:
    files = [file.read_text() for file in (ROOT / "tests").rglob("test_*.py")]
    defined = {test for each in files for test in re.findall(r"^(?:async )?def (test_\w+)", each, re.MULTILINE)}
    page, there = PAGES[name], all_blocks(name)
    assert page.by.keys() <= defined, page.by.keys() - defined
    for mark in (*chain.from_iterable(page.by.values()), *page.drawn, *page.served):
        assert any(mark in each.fenced for each in there), f"{name} has no block with {mark!r}"
    for target, _, _ in page.asks:
        assert f"strandline serve {target}" in text(name)
    for shown in page.loose:
        assert shown in text(name)


@pytest.mark.parametrize("name", [name for name, page in PAGES.items() if page.says])
def test_a_page_says_what_the_code_says(name: str) -> None:
    words = " ".join(text(name).split())
    assert [each for each in PAGES[name].says if " ".join(each.split()) not in words] == []


@pytest.mark.parametrize(("name", "pattern"), [(name, each) for name, page in PAGES.items() for each in page.lists])
def test_a_page_lists_what_there_is_and_no_other(name: str, pattern: str) -> None:
    assert sorted(set(re.findall(pattern, text(name), re.M))) == sorted(
        {str(each) for each in PAGES[name].lists[pattern]}
    )


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as the site and GitHub make them."""
    headings = re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", each).strip().lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("name", LINKING)
def test_every_link_leads_somewhere(name: str) -> None:
    file = ROOT / name
    prose = re.sub(r"^ *```.*?^ *```", "", file.read_text(), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        path, _, anchor = target.partition("#")
        if not target.startswith("http"):
            there = file.parent / path if path else file
            assert there.exists(), target
            assert not anchor or anchor in anchors(there.read_text()), target
    if "adr" not in file.parts:  # (records tell of what was)
        for named in re.findall(r"`((?:deploy|examples|tests|tools)/[\w./-]+)`", prose):
            assert "NAME" in named or (ROOT / named).exists(), named
