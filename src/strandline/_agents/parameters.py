"""The arguments of a factory, chosen by the names of its parameters.

Parameters named `session_id` and `principal` get these, with or without a default. A single other parameter without a
default gets the session's id. Knows signatures only: no framework, and it calls nothing.
"""

import inspect
from collections.abc import Callable
from typing import Final

import msgspec
from msgspec import Struct

from strandline._model import SessionKey

SESSION: Final = "session_id"
PRINCIPAL: Final = "principal"
INJECTED: Final = (SESSION, PRINCIPAL)
_POSITIONAL: Final = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_NAMED: Final = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Parameters(Struct, frozen=True):
    """The arguments by position, in order, and those by keyword: the parameter's name and the argument's."""

    by_position: tuple[str, ...] = ()
    by_name: dict[str, str] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, signature: inspect.Signature) -> "Parameters | None":
        """Return the arguments of a factory with this signature; None if a required parameter would get none."""
        injected = {name: name for name in INJECTED if _can_be_given(signature, name)}
        match others(signature):
            case [other] if SESSION not in injected:
                injected[other] = SESSION
            case [_, *_]:
                return None
        by_position: list[str] = []
        by_name: dict[str, str] = {}
        leading = True
        for parameter in signature.parameters.values():
            argument = injected.get(parameter.name)
            leading = leading and argument is not None and parameter.kind in _POSITIONAL
            if argument is not None and leading:
                by_position.append(argument)
            elif argument is not None and parameter.kind in _NAMED:
                by_name[parameter.name] = argument
        return cls(tuple(by_position), by_name)

    @property
    def principal(self) -> bool:
        """Whether the factory takes the principal."""
        return PRINCIPAL in (*self.by_position, *self.by_name.values())

    def given(self, key: SessionKey) -> tuple[list[str], dict[str, str]]:
        """Return the arguments for a session: by position, and by keyword."""
        argument: Callable[[str], str] = key._asdict().__getitem__
        return [argument(each) for each in self.by_position], {
            name: argument(each) for name, each in self.by_name.items()
        }


def required(signature: inspect.Signature) -> list[str]:
    """Return the names of the positional parameters that have no default."""
    return [
        parameter.name
        for parameter in signature.parameters.values()
        if parameter.kind in _POSITIONAL and parameter.default is parameter.empty
    ]


def others(signature: inspect.Signature) -> list[str]:
    """Return the names of required parameters that are not in `INJECTED`."""
    return [name for name in required(signature) if name not in INJECTED]


def _can_be_given(signature: inspect.Signature, name: str) -> bool:
    parameter = signature.parameters.get(name)
    return parameter is not None and parameter.kind in (*_POSITIONAL, *_NAMED)


NOTHING: Final = Parameters()
SESSION_ID: Final = Parameters((SESSION,))
