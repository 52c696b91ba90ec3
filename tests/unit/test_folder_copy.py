"""Copies of folders, also of those that change meanwhile."""

import os
import socket
import stat
from pathlib import Path
from typing import Any

import pytest

from strandline._folder_copy import copy_folder, remove_folder


def test_what_is_in_a_folder_is_copied_for_its_owner_alone(tmp_path: Path) -> None:
    source, to = tmp_path / "source", tmp_path / "copies" / "to"
    (source / "a" / "b").mkdir(parents=True)
    (source / "a" / "b" / "deep").write_bytes(b"\0\xff" * 100_000)
    (source / "empty").mkdir()
    (source / "ru n").write_text("run")
    (source / "ru n").chmod(0o777)
    copy_folder(source, to)
    found = {str(each.relative_to(to)): stat.S_IMODE(each.stat().st_mode) for each in to.rglob("*")}
    assert found == {"a": 0o700, "a/b": 0o700, "a/b/deep": 0o600, "empty": 0o700, "ru n": 0o700}
    assert (to / "a" / "b" / "deep").read_bytes() == b"\0\xff" * 100_000
    assert stat.S_IMODE(to.stat().st_mode) == 0o700


def test_a_copy_replaces_what_an_earlier_one_has_left_and_no_source_is_an_empty_folder(tmp_path: Path) -> None:
    to = tmp_path / "to"
    to.mkdir()
    (to / "half").write_text("half")
    copy_folder(tmp_path / "none", to)
    assert list(to.iterdir()) == []
    remove_folder(to)
    remove_folder(to)
    assert not to.exists()


def test_no_link_is_followed_and_nothing_but_files_is_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key").write_text("key")
    source, to = tmp_path / "source", tmp_path / "to"
    source.mkdir()
    (source / "folder").symlink_to(secret)
    (source / "file").symlink_to(secret / "key")
    (source / "broken").symlink_to("nowhere")
    os.mkfifo(source / "pipe")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(source / "socket"))
        copy_folder(source, to)
    assert sorted(each.name for each in to.iterdir()) == ["broken", "file", "folder"]
    assert all(each.is_symlink() for each in to.iterdir())
    assert os.readlink(to / "folder") == str(secret)
    (tmp_path / "linked").symlink_to(secret)
    copy_folder(tmp_path / "linked", to)
    assert list(to.iterdir()) == [], "nor is the folder itself a link"


@pytest.mark.parametrize("was", ["file", "folder"])
def test_what_becomes_a_link_while_it_is_copied_is_not_followed(
    was: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_text("key")
    source, to = tmp_path / "source", tmp_path / "to"
    source.mkdir()
    victim = source / "victim"
    victim.mkdir() if was == "folder" else victim.write_text("mine")
    looked, aside = os.stat, tmp_path / "aside"

    def swapping(path: str, **where: Any) -> os.stat_result:
        """Replace what was looked at, once it is known to be no link."""
        found = looked(path, **where)
        if path == "victim" and not aside.exists():
            victim.rename(aside)
            victim.symlink_to(tmp_path / "secret" / ("key" if was == "file" else "."))
        return found

    monkeypatch.setattr(os, "stat", swapping)
    try:
        copy_folder(source, to)
    except OSError:
        pass
    monkeypatch.undo()
    assert aside.exists(), "it was replaced"
    assert [each for each in to.rglob("*") if each.is_file() and each.read_text() == "key"] == []


def test_what_is_gone_when_its_turn_comes_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, to = tmp_path / "source", tmp_path / "to"
    source.mkdir()
    for name in ("going", "staying"):
        (source / name).write_text(name)
    looked = os.stat

    def losing(path: str, **where: Any) -> os.stat_result:
        if path == "going":
            raise FileNotFoundError(path)
        return looked(path, **where)

    monkeypatch.setattr(os, "stat", losing)
    copy_folder(source, to)
    monkeypatch.undo()
    assert [each.name for each in to.iterdir()] == ["staying"]
