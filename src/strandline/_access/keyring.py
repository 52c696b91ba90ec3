"""API keys as they are stored: a line for each, `NAME sha256:HEX [operator]`, with the key's hash and never the key.

A key has 256 random bits, so one round of SHA-256 is enough: a salt or a slow hash protects only what can be guessed.
An error names the place of a wrong line, and its name only if the line certainly has one: it may contain the key
itself. Pure.
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
"""The prefix of every generated key, by which people and secret scanners recognize one."""
ID_DIGITS: Final = 8
"""How many hex digits of a key's hash are its id: enough to find its line, and no part of the key."""
_OURS: Final = re.compile(rb"strandline_[A-Za-z0-9_-]{43}")
_NAME: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._@-]{1,64}")
"""A caller's name. Factories may use it as a folder's name, so neither `.` nor `..` is allowed."""
_NAMES: Final = "1 to 64 characters of A-Z a-z 0-9 . _ @ -, and not `.` or `..`"
_HASH: Final = re.compile(r"sha256:([0-9a-fA-F]{64})")
FORM: Final = "`NAME sha256:HEX`, followed by ` operator` for an operator; `strandline keys new NAME` makes one"


class Line(Struct, frozen=True):
    """A line and its place, for people."""

    location: str
    text: str


class ApiKey(Struct, frozen=True):
    """A key: the caller that it identifies, and whether that is an operator."""

    principal: Principal
    digest: bytes
    operator: bool = False

    @property
    def id(self) -> str:
        """The key's name in the log: the beginning of its hash."""
        return self.digest.hex()[:ID_DIGITS]

    def line(self) -> str:
        """Return the line that is stored."""
        return f"{self.principal} sha256:{self.digest.hex()}{' operator' if self.operator else ''}"


class Keyring:
    """All valid keys."""

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        self.keys = tuple(keys)

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: ApiKey) -> bool:
        """Return whether a key is valid and still identifies the same caller."""
        return any(each.digest == key.digest and each.principal == key.principal for each in self.keys)

    def find(self, shown: bytes) -> ApiKey | None:
        """Return the key that a request shows, None if it is not valid.

        All keys are compared, each in constant time, so the duration reveals neither which one it is nor how close a
        wrong one was.
        """
        digest = hashlib.sha256(shown).digest()
        found = None
        for each in self.keys:
            if compare_digest(each.digest, digest):
                found = each
        return found


def id_of(shown: bytes) -> str | None:
    """Return the id of an unknown key; None if it does not look like a generated one.

    It may be a password, which the beginning of its hash could help to guess.
    """
    return hashlib.sha256(shown).hexdigest()[:ID_DIGITS] if _OURS.fullmatch(shown) else None


def new_key(name: str, *, operator: bool = False) -> tuple[str, ApiKey]:
    """Return a new key, which is stored nowhere, and its record. Raises `SettingsError` for a wrong name."""
    if _NAME.fullmatch(name) is None:
        raise SettingsError(f"{name!r} cannot be the name of a key: it must be {_NAMES}")
    key = PREFIX + secrets.token_urlsafe(32)
    return key, ApiKey(Principal(name), hashlib.sha256(key.encode()).digest(), operator)


def lines_of(text: str, source: str) -> list[Line]:
    """Return the lines of a file without empty ones and comments (`#`)."""
    lines = [Line(f"{source}, line {number}", each.strip()) for number, each in enumerate(text.splitlines(), 1)]
    return [each for each in lines if each.text and not each.text.startswith("#")]


def parse(lines: Iterable[Line]) -> list[ApiKey]:
    """Return the keys in lines. Raises `SettingsError`, which names the place of the first wrong one."""
    locations: dict[bytes, str] = {}
    keys = []
    for line in lines:
        key = _parsed(line)
        if (before := locations.get(key.digest)) is not None:
            raise SettingsError(f"{line.location}: {key.principal} has the same key as {before}. Remove one of them.")
        locations[key.digest] = line.location
        keys.append(key)
    return keys


def _parsed(line: Line) -> ApiKey:
    name, *rest = line.text.split()
    if not rest or not rest[0].startswith("sha256:"):
        raise SettingsError(
            f"{line.location} is not a key (and is not shown, since it may be a secret). It must be {FORM}."
        )
    if _NAME.fullmatch(name) is None:
        raise SettingsError(f"{line.location}: the name must be 1 to 64 characters of A-Z a-z 0-9 . _ @ -")
    found = _HASH.fullmatch(rest[0])
    if found is None:
        raise SettingsError(f"{line.location}: the hash of {name} must be `sha256:` and 64 hex digits.")
    if rest[1:] not in ([], [OPERATOR]):
        raise SettingsError(f"{line.location}: only `operator` may follow the hash of {name}.")
    return ApiKey(Principal(name), bytes.fromhex(found[1]), bool(rest[1:]))
