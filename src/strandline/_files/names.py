"""Names of files that are safe anywhere: in a folder, a header, a terminal and a prompt. Pure."""

import os
import unicodedata
from typing import Final

LONGEST: Final = 120
"""Characters of a name; as UTF-8 at most twice as many bytes, which every file system takes."""
NAMELESS: Final = "file"
_UNSHOWN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
"""Categories of characters that nobody sees, among them those that turn the direction of text."""
_UNSAFE: Final = frozenset('<>:"|?*')
"""Characters that some file systems refuse, or shells and headers read as their own."""


def safe_name(given: str) -> str:
    """Return a name for a file: the last part of a path, without characters that are not shown or not safe, never
    empty, never hidden, and short. Its extension stays."""
    last = given.replace("\\", "/").rpartition("/")[2]
    text = unicodedata.normalize("NFC", last)
    spaced = (" " if each.isspace() else each for each in text)
    shown = (each for each in spaced if unicodedata.category(each) not in _UNSHOWN)
    clean = " ".join("".join("_" if each in _UNSAFE else each for each in shown).split()).strip(". ")
    return _cut(clean) or NAMELESS


def _cut(name: str) -> str:
    """Return a name cut to its limits, with its extension."""
    if len(name) <= LONGEST and len(name.encode()) <= 2 * LONGEST:
        return name
    stem, extension = os.path.splitext(name)
    if len(extension.encode()) > LONGEST // 4:
        stem, extension = name, ""
    room = min(LONGEST, 2 * LONGEST - len(extension.encode()))
    stem = stem[: LONGEST - len(extension)]
    while len(stem.encode()) > room:
        stem = stem[:-1]
    return f"{stem.rstrip('. ')}{extension}"
