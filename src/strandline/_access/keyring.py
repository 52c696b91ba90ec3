"""API keys as they are kept: a line for each, `NAME sha256:HEX [operator]`, with the hash of the key and never the key.

A key is chance of 256 bits, so one round of SHA-256 keeps it: nobody guesses what a salt or a slow hash would protect.
What is wrong with a line is told by its place, and by its name only where the line is certain to have one: somebody may
have written the key itself there. Pure.
"""

import hashlib
import re
import secrets
from collections.abc import Iterable
from hmac import compare_digest
from typing import Final

from msgspec import Struct

from strandline._model import Principal
from strandline.errors import SettingsError

OPERATOR: Final = "operator"
PREFIX: Final = "strandline_"
"""What every key begins with that is made here, so that people and scanners for secrets know one when they see it."""
ID_DIGITS: Final = 8
"""How many hex digits of a key's hash are its id: enough to find its line, and nothing of the key."""
_OURS: Final = re.compile(rb"strandline_[A-Za-z0-9_-]{43}")
_NAME: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._@-]{1,64}")
"""A principal, as which a factory may name a folder: so neither `.` nor `..` is one."""
_NAMES: Final = "1 to 64 characters of A-Z a-z 0-9 . _ @ -, and not `.` or `..`"
_HASH: Final = re.compile(r"sha256:([0-9a-fA-F]{64})")
FORM: Final = "`NAME sha256:HEX`, with ` operator` behind it for an operator; `strandline keys new NAME` makes one"


class Line(Struct, frozen=True):
    """A line and where it stands, for people."""

    place: str
    text: str


class ApiKey(Struct, frozen=True):
    """A key: the principal that whoever shows it is, and whether it is an operator's."""

    principal: Principal
    digest: bytes
    operator: bool = False

    @property
    def id(self) -> str:
        """What the log calls it: the beginning of its hash."""
        return self.digest.hex()[:ID_DIGITS]

    def line(self) -> str:
        """Return the line that is kept."""
        return f"{self.principal} sha256:{self.digest.hex()}{' operator' if self.operator else ''}"


class Keyring:
    """The keys that are known."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self.keys = tuple(keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: ApiKey) -> bool:
        """Return whether a key stands for the principal that it stood for."""
        return any(each.digest == key.digest and each.principal == key.principal for each in self.keys)

    def find(self, shown: bytes) -> ApiKey | None:
        """Return the key that was shown, None if it is none of them.

        All are compared, each in constant time: how long it takes tells neither which it is nor how near it was.
        """
        digest = hashlib.sha256(shown).digest()
        found = None
        for each in self.keys:
            if compare_digest(each.digest, digest):
                found = each
        return found


def id_of(shown: bytes) -> str | None:
    """Return the id of a key that is not known; None for what has not the form of one of ours.

    That may be a password, which could be guessed by the beginning of its hash.
    """
    return hashlib.sha256(shown).hexdigest()[:ID_DIGITS] if _OURS.fullmatch(shown) else None


def new_key(name: str, *, operator: bool = False) -> tuple[str, ApiKey]:
    """Return a new key, which is nowhere else, and what is kept of it. Raises `SettingsError` for the name."""
    if _NAME.fullmatch(name) is None:
        raise SettingsError(f"{name!r} cannot be the name of a key: it is {_NAMES}")
    key = PREFIX + secrets.token_urlsafe(32)
    return key, ApiKey(Principal(name), hashlib.sha256(key.encode()).digest(), operator)


def lines_of(text: str, source: str) -> list[Line]:
    """Return the lines of a file that are not empty and no remarks (`#`)."""
    lines = [Line(f"{source}, line {number}", each.strip()) for number, each in enumerate(text.splitlines(), 1)]
    return [each for each in lines if each.text and not each.text.startswith("#")]


def parse(lines: Iterable[Line]) -> list[ApiKey]:
    """Return the keys that lines stand for. Raises `SettingsError` that names the place of the first that is wrong."""
    places: dict[bytes, str] = {}
    keys = []
    for line in lines:
        key = _parsed(line)
        if (before := places.get(key.digest)) is not None:
            raise SettingsError(f"{line.place}: {key.principal} has the same key as {before}. Take one of them out.")
        places[key.digest] = line.place
        keys.append(key)
    return keys


def _parsed(line: Line) -> ApiKey:
    name, *rest = line.text.split()
    if not rest or not rest[0].startswith("sha256:"):
        raise SettingsError(f"{line.place} is no key (and is not shown, since it may be a secret). It must be {FORM}.")
    if _NAME.fullmatch(name) is None:
        raise SettingsError(f"{line.place}: the name must be 1 to 64 characters of A-Z a-z 0-9 . _ @ -")
    found = _HASH.fullmatch(rest[0])
    if found is None:
        raise SettingsError(f"{line.place}: the hash of {name} must be `sha256:` and 64 hex digits.")
    if rest[1:] not in ([], [OPERATOR]):
        raise SettingsError(f"{line.place}: behind the hash of {name} may stand `operator`, and nothing else.")
    return ApiKey(Principal(name), bytes.fromhex(found[1]), bool(rest[1:]))
