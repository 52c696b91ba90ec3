"""Paths of the files of sessions. Pure; touches no file.

A session's folder is `session_NAME` in the folder of the setting `session_files`, as `FileSessionManager` names it
(strands-agents 1.62.0). Two sessions never share one: session ids are used as they are, or with a digest if they are
too long for a file system; principals are escaped; and `session_files_names` swaps names in both directions.
"""

import glob
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final
from urllib.parse import quote

from strandline._model import Principal, SessionId, SessionKey, session_id
from strandline._older_names import CALLER, OLDER_CALLER
from strandline.errors import Invalid, SettingsError

SESSION: Final = "session_"
_PLACEHOLDER: Final = re.compile(r"\{[^{}]*\}|[{}]")
_SESSION_ID: Final = "{session_id}"
_LONGEST: Final = 120
"""The longest name without a digest: file systems allow 255 bytes, and one part of a path may hold two names."""


class SessionPaths:
    """The paths of all sessions. Raises `SettingsError` for invalid settings."""

    def __init__(self, template: str, names: Sequence[str] = ()) -> None:
        for found in _PLACEHOLDER.findall(template):
            if found not in (CALLER, OLDER_CALLER, _SESSION_ID):
                raise SettingsError(
                    f"session_files is {template!r}: {found} is no placeholder. It may hold {CALLER} and {_SESSION_ID}."
                )
        self._template = os.path.abspath(os.path.expanduser(template)).replace(OLDER_CALLER, CALLER)
        self._names = _swapped(names)

    @property
    def root(self) -> Path:
        """The common folder of all sessions."""
        own, brace, _ = self._template.partition("{")
        return Path(own + "_").parent if brace else Path(own)

    @property
    def keeps_principals_apart(self) -> bool:
        """Whether each principal has a folder of its own."""
        return CALLER in self._template

    def name(self, id: SessionId) -> str:  # noqa: A002
        """Return the name of a session in its paths."""
        name = self._names.get(id, id)
        return name if len(name) <= _LONGEST else f"{name[:40]}-{hashlib.sha256(name.encode()).hexdigest()}"

    def folder(self, key: SessionKey) -> Path:
        """Return the folder of a session's files."""
        name = self.name(key.session_id)
        storage = self._template.replace(CALLER, _part(key.principal)).replace(_SESSION_ID, name)
        return Path(storage) / f"{SESSION}{name}"

    def pattern(self, file: str) -> str:
        """Return a `glob` pattern for the file `file` in the folders of all sessions."""
        parts = re.split(f"({re.escape(CALLER)}|{re.escape(_SESSION_ID)})", self._template)
        storage = "".join("*" if each in (CALLER, _SESSION_ID) else glob.escape(each) for each in parts)
        return os.path.join(storage, f"{SESSION}*", file)


def _swapped(names: Sequence[str]) -> dict[str, str]:
    """Return the swapped names by session id: if `a` is called `b`, `b` is called `a`."""
    swapped: dict[str, str] = {}
    for each in names:
        own, _, other = each.partition("=")
        try:
            pair = (session_id(own.strip()), session_id(other.strip()))
        except Invalid:
            raise SettingsError(
                f"session_files_names has {each!r}. Write SESSION=NAME, such as default=agent, both as session ids are:"
                " 1 to 256 of A-Z a-z 0-9 . _ : @ -"
            ) from None
        if pair[0] == pair[1] or not swapped.keys().isdisjoint(pair):
            raise SettingsError(
                f"session_files_names has {each!r}, but each name may appear once only, with a different one: two"
                " sessions must not have the same files. Remove one of them."
            )
        swapped |= {pair[0]: pair[1], pair[1]: pair[0]}
    return swapped


def _part(principal: Principal) -> str:
    """Return a unique part of a path for a principal."""
    plain = principal.encode("utf-8", "surrogatepass")
    part = quote(plain, safe="@") or "%"
    if part in (".", ".."):
        part = part.replace(".", "%2E")
    if len(part) > _LONGEST:
        # (no escaped name has a `%-`)
        part = f"{part[:40]}%-{hashlib.sha256(plain).hexdigest()}"
    return part
