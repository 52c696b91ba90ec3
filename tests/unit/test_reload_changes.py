"""Which changes of files call for a reload, also where the system cannot follow folders."""

import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from strandline._reload import changes
from strandline._reload.changes import Changes
from strandline._reload.parent import forget_compiled

DEADLINE_S = 20


@contextmanager
def followed(folder: Path, *files: Path) -> Iterator["queue.Queue[Path]"]:
    paths: queue.Queue[Path] = queue.Queue()
    followed = Changes(folder, files, paths.put)
    followed.start()
    try:
        yield paths
    finally:
        followed.stop()


@pytest.mark.parametrize("most_folders", [64, 0], ids=["followed", "looked at again and again"])
def test_code_in_folders_of_any_age_is_seen_and_nothing_else(
    most_folders: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changes, "MOST_FOLDERS", most_folders)
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home / "old/deep", home / ".venv", home / "__pycache__", elsewhere):
        folder.mkdir(parents=True)
    settings = elsewhere / "mine.toml"
    settings.write_text("")
    with followed(home, settings) as paths:
        for place in (home / ".venv/a.py", home / "__pycache__/a.py", home / "a.txt", elsewhere / "a.py"):
            place.write_text("x")
        expected = [home / "a.py", home / "old/deep/a.py", home / "new/deep/a.py", settings]
        seen: set[Path] = set()
        for place in expected:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("x = 1")
            while place not in seen:
                seen.add(paths.get(timeout=DEADLINE_S))
        assert seen == set(expected)


def test_a_file_that_replaces_another_and_one_that_goes_are_changes(tmp_path: Path) -> None:
    """Editors write beside a file and rename; version control removes."""
    code = tmp_path / "agent.py"
    code.write_text("1")
    with followed(tmp_path) as paths:
        beside = tmp_path / ".agent.py.swp"
        beside.write_text("2")
        beside.rename(code)
        assert paths.get(timeout=DEADLINE_S) == code
        while not paths.empty():
            paths.get()
        code.unlink()
        assert paths.get(timeout=DEADLINE_S) == code


def test_the_compiled_form_of_a_changed_file_is_dropped(tmp_path: Path) -> None:
    import importlib.util
    import py_compile

    code = tmp_path / "agent.py"
    code.write_text("x = 1")
    compiled = Path(py_compile.compile(str(code)) or "")
    assert compiled == Path(importlib.util.cache_from_source(str(code)))
    forget_compiled(code)
    assert not compiled.exists()
    forget_compiled(code)
