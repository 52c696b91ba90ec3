"""What OpenAI's clients want of the agent, as the engine takes it.

Both protocols of OpenAI have the same parts in other places: chat completions `response_format`, responses
`text.format`, which has the fields of `json_schema` in itself.
"""

from typing import Any, Final

from strandline._model import AnswerFormat
from strandline.errors import Invalid

_ANY_OBJECT: Final[dict[str, Any]] = {"type": "object"}


def format_of(given: dict[str, Any] | None, there: str) -> AnswerFormat | None:
    """Return the wanted form of the answer; None: text. `there` is its place in the request. Raises `Invalid`."""
    kind = "text" if given is None else given.get("type", "text")
    if given is None or kind == "text":
        return None
    if kind == "json_object":
        return AnswerFormat(json_schema=_ANY_OBJECT)
    if kind != "json_schema":
        raise Invalid(f"The type must be text, json_object or json_schema - at `{there}.type`")
    inner = given.get("json_schema", given)
    if not isinstance(inner, dict) or not isinstance(inner.get("schema"), dict):
        raise Invalid(f"A JSON Schema is needed, an object in `schema` - at `{there}`")
    name, description = inner.get("name") or "", inner.get("description") or ""
    if not (isinstance(name, str) and isinstance(description, str)):
        raise Invalid(f"`name` and `description` must be texts - at `{there}`")
    return AnswerFormat(json_schema=inner["schema"], name=name, description=description)
