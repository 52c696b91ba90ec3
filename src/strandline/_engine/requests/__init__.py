"""Requests: what callers ask with, checked and made a run that the journal can accept.

`Request` is a run that somebody asks for; `Drafts` makes a `NewRun` of it: limits, defaults, lane and key.
`check_content` is the allowlist of content blocks. Everything here is a value or a check: nothing is kept, and nothing
is known of who else waits.
"""

from strandline._engine.requests.content import FORMATS, LOCATION, LONGEST_NAME, NEVER, TAKEN, check_content
from strandline._engine.requests.drafts import Drafts, in_range
from strandline._engine.requests.request import Request, check_key

__all__ = [
    "FORMATS",
    "LOCATION",
    "LONGEST_NAME",
    "NEVER",
    "TAKEN",
    "Drafts",
    "Request",
    "check_content",
    "check_key",
    "in_range",
]
