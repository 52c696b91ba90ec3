"""Results of tools that a client has executed: their texts, and the key of a request that brings some."""

import hashlib
from typing import Any

from strandline._encoding import encode
from strandline._http.exchange.idempotency import fingerprint
from strandline._http.exchange.run_request import Responses
from strandline._model import Input
from strandline.errors import Invalid


def text_in(content: str | list[Any], kind: str, there: str) -> str:
    """Return the text of a result, maybe sent in parts of type `kind`; `there` is its place. Raises `Invalid`."""
    if isinstance(content, str):
        return content
    texts: list[str] = []
    for part in content:
        text = part.get("text") if isinstance(part, dict) and part.get("type") == kind else None
        if not isinstance(text, str):
            raise Invalid(f"The result of a tool must be a text, or parts of type {kind} - at `{there}`")
        texts.append(text)
    return "".join(texts)


def implied_key(prompt: Input | Responses, sent: bytes) -> str | None:
    """Return the key that stands for results of tools: a call has one result, so those who send it again repeat it."""
    if not isinstance(prompt, Responses):
        return None
    return f"results-{hashlib.sha256(encode([prompt, fingerprint(sent).hex()])).hexdigest()}"
