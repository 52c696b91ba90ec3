"""What mkdocs' configuration cannot express: pages by folder, in the navigation and in the search."""

import re
from pathlib import Path
from typing import Any, Final

TEST: Final = re.compile(r"\[(`\w+`)\]\((?:\.\./)+tests/[^)]*\)|(`test_\w+`)")
"""A test that a page names or links to: links lead to the source, which the site does not have."""


def on_config(config: Any) -> Any:
    """Replace each `folder/` of the navigation by its pages, in order of name."""
    config.nav = [_expanded(entry, Path(config.docs_dir)) for entry in config.nav]
    return config


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Show names of tests without links, and let search find the guides before the decisions, which are read once."""
    if page.file.src_uri.startswith("adr/"):
        page.meta["search"] = {"boost": 0.2}
    return TEST.sub(r"\1\2{ .test }", markdown)


def _expanded(entry: Any, docs: Path) -> Any:
    if not isinstance(entry, dict):
        return entry
    ((title, value),) = entry.items()
    if isinstance(value, list):
        return {title: [_expanded(each, docs) for each in value]}
    if value.endswith("/"):
        return {title: [page.relative_to(docs).as_posix() for page in sorted((docs / value).glob("*.md"))]}
    return entry
