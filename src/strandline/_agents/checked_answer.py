"""Whether what a model gives is as the JSON Schema of its client says, found in a bounded number of steps.

By `jsonschema`, which is imported with this module: only for clients that want an answer in a form. Knows no agent
framework.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Final

from jsonschema import Draft202012Validator, ValidationError  # type: ignore[import-untyped]
from jsonschema.validators import extend  # type: ignore[import-untyped]
from referencing import Registry

from strandline._agents.json_schemas import object_schema

MOST_STEPS: Final = 50_000
"""What one answer costs at most: one for each keyword, each part of it, each fault, and each `_A_STEP` of its text. A
schema of a few hundred bytes can make that 2 ** 30."""
_A_STEP: Final = 1024
"""How many characters of a fault's text, which has the value in it, cost a step."""
MOST_FAULTS: Final = 10
"""How many the model learns of at once."""
_LONGEST: Final = 300

Keyword = Callable[[Any, Any, Any, Any], Iterator[ValidationError]]


class CannotCheck(Exception):
    """An answer cannot be checked."""


class CheckedAnswer:
    """The answer of one run, in the form that its client wants. `given` is the one that was as the schema says."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._left = MOST_STEPS
        keywords = {name: self._counted(check) for name, check in Draft202012Validator.VALIDATORS.items()}
        kind = extend(Draft202012Validator, keywords)
        kind.descend = self._charged(kind.descend)
        self._validator = kind(object_schema(schema), registry=Registry())
        self.given: dict[str, Any] | None = None
        self.misses = 0
        """How many were not."""

    def check(self, given: dict[str, Any]) -> None:
        """Take what the model gives. Raises `ValueError`, with what is wrong with it, and `CannotCheck`."""
        self._left = MOST_STEPS
        try:
            found = [_said(error) for error in islice(self._validator.iter_errors(given), MOST_FAULTS)]
        except CannotCheck:
            raise
        except Exception as error:  # (RecursionError: it refers to itself; OverflowError: of two numbers)
            raise CannotCheck(f"its schema is too complicated ({type(error).__name__})") from error
        if found:
            self.misses += 1
            raise ValueError("; ".join(found))
        self.given = given

    def _counted(self, check: Any) -> Keyword:
        def step(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[ValidationError]:
            self._spend(1 + (len(value) if isinstance(value, dict | list) else 0))
            yield from check(validator, value, instance, schema) or ()

        return step

    def _charged(self, descend: Any) -> Any:
        """Count the faults of parts: `anyOf` collects all of them, each with a text as long as the value."""

        def charged(validator: Any, *given: Any, **more: Any) -> Iterator[ValidationError]:
            for error in descend(validator, *given, **more):
                self._spend(1 + len(error.message) // _A_STEP)
                error.message = _shortened(error.message)
                yield error

        return charged

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise CannotCheck("its schema takes too many steps")


def _said(error: ValidationError) -> str:
    return f"{error.json_path}: {_shortened(error.message)}"


def _shortened(text: str) -> str:
    """Return the text of a fault, the value and what is wrong with it."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 3]} ... {text[-_LONGEST // 2 :]}"
