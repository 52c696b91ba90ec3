"""What mkdocs cannot be told in its configuration: a folder in the navigation is all pages in it, in order of name."""

from pathlib import Path
from typing import Any


def on_config(config: Any) -> Any:
    """Replace each `folder/` of the navigation by its pages."""
    config.nav = [_expanded(entry, Path(config.docs_dir)) for entry in config.nav]
    return config


def _expanded(entry: Any, docs: Path) -> Any:
    if not isinstance(entry, dict):
        return entry
    ((title, value),) = entry.items()
    if isinstance(value, list):
        return {title: [_expanded(each, docs) for each in value]}
    if value.endswith("/"):
        return {title: [page.relative_to(docs).as_posix() for page in sorted((docs / value).glob("*.md"))]}
    return entry
