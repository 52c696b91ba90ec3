"""JSON Schemas that clients send: whether an agent can be given one, and which part of it answers are checked by.

Strangers write them, so all of this takes time in proportion to their size. They are complete in themselves: nothing is
fetched. Keywords whose check could take forever (regular expressions of a stranger) are only shown to the model.
Draft 2020-12, and lists as `items` as in older ones. Pure; knows no agent framework.
"""

from collections.abc import Callable, Iterable
from typing import Any, Final

MOST_LEVELS: Final = 64
"""How deep schemas may be nested: code that checks by them calls itself for each level."""
UNCHECKED: Final = frozenset(
    {"pattern", "patternProperties", "uniqueItems", "unevaluatedItems", "unevaluatedProperties"}
)
_SHOWN: Final = 60
_TYPES: Final = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})
_SCHEMAS: Final = frozenset({"additionalItems", "additionalProperties", "contains", "else", "if", "items", "not"}) | {
    *("propertyNames", "then", "unevaluatedItems", "unevaluatedProperties"),
}
"""Keywords whose value is a schema."""
_LISTS: Final = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
"""... a list of schemas."""
_MAPS: Final = frozenset({"$defs", "definitions", "dependentSchemas", "patternProperties", "properties"})
"""... an object of schemas."""
_ELSEWHERE: Final = frozenset({"$dynamicAnchor", "$dynamicRef", "$id", "$recursiveRef"})
"""... what makes references mean something else."""


class NoSchema(Exception):
    """An agent cannot be given this; the text says why, in words that follow "it"."""


def object_schema(schema: dict[str, Any]) -> dict[str, Any]:
    """Return that part of the schema of an object by which answers are checked. Raises `NoSchema`."""
    if schema.get("type", "object") != "object":
        raise NoSchema('must be that of an object, with "type": "object"; put any other value into one')
    return _Reader(schema).part(schema, "$", 0)


class _Reader:
    def __init__(self, whole: dict[str, Any]) -> None:
        self._whole = whole

    def part(self, schema: dict[str, Any], at: str, level: int) -> dict[str, Any]:
        if level > MOST_LEVELS:
            raise NoSchema(f"must be nested at most {MOST_LEVELS} levels deep")
        left: dict[str, Any] = {}
        for name, value in schema.items():
            there = f"{at}.{name[:_SHOWN]}"
            if name in _SCHEMAS and not (name == "items" and isinstance(value, list)):
                read: Any = self._schema(value, there, level)
            elif name in _LISTS or name == "items":
                read = [self._schema(each, there, level) for each in _filled_list(value, there)]
            elif name in _MAPS:
                read = {
                    key: self._schema(each, f"{there}.{key[:_SHOWN]}", level) for key, each in _object(value, there)
                }
            else:
                self._check(name, value, there)
                read = value
            if name not in UNCHECKED:
                left["prefixItems" if name == "items" and isinstance(value, list) else name] = read
        if "patternProperties" in schema:  # (all that these do not match)
            left.pop("additionalProperties", None)
        return left

    def _schema(self, value: object, at: str, level: int) -> dict[str, Any] | bool:
        if isinstance(value, bool):
            return value
        if not isinstance(value, dict):
            raise NoSchema(f"must have a schema, which is an object, at {at}")
        return self.part(value, at, level + 1)

    def _check(self, name: str, value: object, at: str) -> None:
        """Check a keyword that has no schema."""
        if name in _ELSEWHERE:
            raise NoSchema(f"must not have {name}; define parts in $defs, and refer to them as #/$defs/NAME")
        if name == "$ref" and not (isinstance(value, str) and self._has(value)):
            raise NoSchema(f"must have what it refers to at {at}, {str(value)[:_SHOWN]!a}: nothing is fetched")
        if (wants := _PLAIN.get(name)) is not None and not wants[0](value):
            raise NoSchema(f"must have {wants[1]} at {at}")

    def _has(self, ref: str) -> bool:
        """Return whether the schema has the part that a reference names."""
        if ref != "#" and not ref.startswith("#/"):
            return False
        part: object = self._whole
        for step in ref.split("/")[1:]:
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(part, dict) and name in part:
                part = part[name]
            elif isinstance(part, list) and name.isascii() and name.isdecimal() and int(name[:9]) < len(part):
                part = part[int(name)]
            else:
                return False
        return isinstance(part, dict | bool)


def _object(value: object, at: str) -> Iterable[tuple[str, Any]]:
    if not isinstance(value, dict):
        raise NoSchema(f"must have an object of schemas at {at}")
    return value.items()


def _filled_list(value: object, at: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise NoSchema(f"must have a list of at least one schema at {at}")
    return value


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: object) -> bool:
    return _is_number(value) and value >= 0  # type: ignore[operator]


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _is_type(value: object) -> bool:
    return value in _TYPES if isinstance(value, str) else _is_texts(value) and {*value} <= _TYPES  # type: ignore[misc]


_Wants = tuple[Callable[[object], bool], str]
_NUMBER: Final[_Wants] = (_is_number, "a number")
_COUNT: Final[_Wants] = (_is_count, "a number of at least 0")
_PLAIN: Final[dict[str, _Wants]] = {
    "type": (_is_type, f"one of {', '.join(sorted(_TYPES))}, or a list of them,"),
    "required": (_is_texts, "a list of names"),
    "dependentRequired": (
        lambda value: isinstance(value, dict) and all(map(_is_texts, value.values())),
        "an object of lists of names",
    ),
    "enum": (lambda value: isinstance(value, list), "a list"),
    "multipleOf": (lambda value: _is_number(value) and value > 0, "a number above 0"),  # type: ignore[operator]
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"), _NUMBER),
    **dict.fromkeys(("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"), _COUNT),
    **dict.fromkeys(("minContains", "maxContains"), _COUNT),
}
"""What other keywords need that an answer is checked by."""
