"""The secrets that sign what is sent: a file of lines `NAME whsec_...`, read again when it changes.

A caller may have several, which all sign: to rotate one, add another, and remove the old one once its receivers know
the new one. `*` is whom the server's own webhook belongs to. If a changed file is missing or wrong, the previous
secrets stay in use, and the log says so. An error names the place of a wrong line, and nothing of what it has.
"""

import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from strandline._model import Principal
from strandline._webhooks.signing import secret_of
from strandline.errors import SettingsError

_log = logging.getLogger("strandline.webhooks")

SERVER: Final = "*"
"""In place of a caller's name: what is sent to the webhook of the settings."""
_NAME: Final = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._@-]{1,64}|\*")
FORM: Final = "`NAME whsec_...`; `strandline keys webhook NAME` prints one"
MOST_EACH: Final = 8
"""How many secrets one caller may have."""


class Secrets:
    """The secrets of a server. `refresh` may be called from any thread."""

    def __init__(self, file: Path) -> None:
        """Raises `SettingsError` if the file cannot be read."""
        self._file = file
        self._read = _content(file)
        self._of = parse(self._read, str(file))
        self._failure = ""

    def has(self, principal: Principal) -> bool:
        """Return whether there is a secret of a principal."""
        return principal in self._of

    def signing(self, principal: Principal, *, by_server: bool) -> Sequence[bytes]:
        """Return the secrets that sign what is sent for a principal, or `by_server` to the server's webhook."""
        found = self._of
        return (found.get(SERVER, ()) if by_server else ()) or found.get(principal, ())

    def refresh(self) -> None:
        """Use what the file has now, if it is correct."""
        try:
            content = _content(self._file)
            if content != self._read:
                self._of, self._read = parse(content, str(self._file)), content
                _log.info("the secrets of webhooks have changed: %d callers have some", len(self._of))
            self._failure = ""
        except SettingsError as error:
            if self._failure != str(error):
                _log.error("the new secrets cannot be read, so the previous ones stay in use: %s", error)
            self._failure = str(error)


def checked_name(name: str) -> str:
    """Return the name of a caller who may have secrets. Raises `SettingsError` for any other."""
    if _NAME.fullmatch(name) is None:
        raise SettingsError(
            f"{name!r} cannot have secrets: a name has 1 to 64 characters of A-Z a-z 0-9 . _ @ -, or is `*`"
        )
    return name


def parse(content: bytes, source: str) -> dict[str, tuple[bytes, ...]]:
    """Return the secrets in a file, by name. Raises `SettingsError`, which names the place of the first wrong line."""
    found: dict[str, tuple[bytes, ...]] = {}
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise SettingsError(f"{source} (setting webhook_secrets) is not UTF-8 text.") from None
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, _, rest = line.strip().partition(" ")
        secret = secret_of(rest.strip())
        if _NAME.fullmatch(name) is None or secret is None:
            raise SettingsError(
                f"{source}, line {number}, has no secret (and is not shown, since it may be one). It must be {FORM}."
            )
        found[name] = (*found.get(name, ()), secret)
        if len(found[name]) > MOST_EACH:
            raise SettingsError(f"{source}, line {number}: {name} has more than {MOST_EACH} secrets.")
    return found


def _content(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise SettingsError(
            f"the file {file} (setting webhook_secrets) cannot be read: {error.strerror or error}. Make it: strandline"
            f" keys webhook NAME --file {file}"
        ) from None
