"""Text that is safe to write to a terminal.

Output quotes models, web pages and other servers. None of them may move the cursor, change the title, erase text, or
reorder it by changing its direction.
"""

import re
from typing import Final

CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""The last two ranges embed, override and isolate writing directions. The marks between words of Arabic or Hebrew text
reorder nothing and stay."""

_PASSWORD: Final = re.compile(
    r"(?P<before>\w:(?://)?[^\s/?#@:]*:)\S*(?=@)"  # (of a URL, also where it has characters that are to be encoded)
    r"|(?P<named>(?i:password)=)('(?:[^'\\]|\\.)*'|[^\s&'\"]+)"
)
HIDDEN_PASSWORD: Final = "***"
_USER: Final = re.compile(r"(?<=//)[^/?#]*(?=@)")
_QUERY: Final = re.compile(r"(?<=[?#])[^\s'\"]+")

ERROR_IDS: Final = "strandline.errors"
"""The logger of error texts for which callers get an id: it logs them at every log level."""


def clean(text: str) -> str:
    """Return a text without control characters; tabs and newlines stay."""
    return CONTROL.sub("", text)


def without_passwords(text: str) -> str:
    """Return a text in which the passwords of all addresses are hidden, of URLs and of `password=...`."""
    return _PASSWORD.sub(lambda found: f"{found['before'] or found['named']}{HIDDEN_PASSWORD}", text)


def without_secrets(url: str) -> str:
    """Return a URL, or a text with one, without user name, password and query: each of them may be a secret."""
    return _QUERY.sub(HIDDEN_PASSWORD, _USER.sub(HIDDEN_PASSWORD, without_passwords(url)))


class Private(str):
    """A log argument that may quote messages or secrets: a text log shows it, a JSON log shows `instead`."""

    instead: str

    def __new__(cls, text: str, instead: str) -> "Private":
        """Return `text`; anybody may read `instead`."""
        private = super().__new__(cls, text)
        private.instead = instead
        return private
