"""What a factory is called with: facts of the session that it makes an agent for, recognised by their names.

`session_id` and `principal` are given wherever they stand, with a default or without. A single other parameter that has
no default gets the session's id, whatever its name. Knows signatures only: no framework, and it calls nothing.
"""

import inspect
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from strandline._model import SessionKey

SESSION: Final = "session_id"
PRINCIPAL: Final = "principal"
FACTS: Final = (SESSION, PRINCIPAL)
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Parameters(Struct, frozen=True):
    """The facts that are given by position, in order, and those given by keyword: which one each parameter gets."""

    by_position: tuple[str, ...] = ()
    by_name: dict[str, str] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, signature: inspect.Signature) -> "Parameters | None":
        """Return what a factory of this signature takes; None if a positional one would be given nothing."""
        facts = {name: name for name in FACTS if _can_be_given(signature, name)}
        match others(signature):
            case [other] if SESSION not in facts:
                facts[other] = SESSION
            case [_, *_]:
                return None
        by_position: list[str] = []
        by_name: dict[str, str] = {}
        leading = True
        for parameter in signature.parameters.values():
            fact = facts.get(parameter.name)
            leading = leading and fact is not None and parameter.kind in _POSITIONAL
            if fact is not None and leading:
                by_position.append(fact)
            elif fact is not None and parameter.kind in _NAMED:
                by_name[parameter.name] = fact
        return cls(tuple(by_position), by_name)

    @property
    def principal(self) -> bool:
        """Whether the principal is one of them."""
        return PRINCIPAL in (*self.by_position, *self.by_name.values())

    def given(self, key: SessionKey) -> tuple[list[str], dict[str, str]]:
        """Return the arguments for a session's agent: by position, and by keyword."""
        fact: Callable[[str], str] = key._asdict().__getitem__
        return [fact(each) for each in self.by_position], {name: fact(each) for name, each in self.by_name.items()}


def required(signature: inspect.Signature) -> list[str]:
    """Return the names of the positional parameters that have no default."""
    return [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind in _POSITIONAL and parameter.default is parameter.empty
    ]


def others(signature: inspect.Signature) -> list[str]:
    """Return the names of those of them that are no fact's."""
    return [name for name in required(signature) if name not in FACTS]


def _can_be_given(signature: inspect.Signature, name: str) -> bool:
    parameter = signature.parameters.get(name)
    return parameter is not None and parameter.kind in (*_POSITIONAL, *_NAMED)


NOTHING: Final = Parameters()
SESSION_ID: Final = Parameters((SESSION,))
