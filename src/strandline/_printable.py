"""What may be written to a terminal: text without what would control it.

Models, web pages and other servers are quoted in what people read; none of them may move the cursor, change a title or
take away what stands there, nor have it read in another order than it was written in.
"""

import re
from typing import Final

CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""The last two ranges embed, override and isolate directions of writing. The marks that texts in Arabic or Hebrew have
between words turn nothing around, and stay."""

ERROR_IDS: Final = "strandline.errors"
"""The logger of texts for which callers were given an id: whatever a log leaves out otherwise, it has these."""


def clean(text: str) -> str:
    """Return a text without control characters; tabs and ends of lines stay."""
    return CONTROL.sub("", text)


class Private(str):
    """A text that may quote messages or secrets: people at a terminal see it in the log, programs see `instead`."""

    instead: str

    def __new__(cls, text: str, instead: str) -> "Private":
        """Return `text`, for which `instead` can be told to anybody."""
        private = super().__new__(cls, text)
        private.instead = instead
        return private
