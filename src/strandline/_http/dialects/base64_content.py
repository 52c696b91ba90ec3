"""Content that clients send as base64 in a body. Pure."""

import base64

from strandline.errors import Invalid


def decoded(data: str, what: str, there: str) -> bytes:
    """Return the bytes of an image or a file (`what`), which is at `there` in the body. Raises `Invalid`."""
    try:
        return base64.b64decode(data, validate=True)
    except ValueError as error:  # (of characters beyond ASCII, too)
        raise Invalid(f"The {what} is not base64: {error} - at `{there}`") from None
