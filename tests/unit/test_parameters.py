"""What a factory is called with: the facts of its session, by their names, wherever they stand."""

import asyncio
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from strands import Agent

from engine_support import send
from strandline._agents.factory import PROBE_SESSION, FactoryTarget
from strandline._agents.function import FunctionTarget, Session
from strandline._agents.load import target_for
from strandline._agents.parameters import NOTHING, SESSION_ID, Parameters
from strandline._model import Outcome, Principal, SessionId, SessionKey
from strandline.errors import TargetError
from strandline.testing import ScriptedModel
from target_support import run, serving

KEY = SessionKey(Principal("ada"), SessionId("desk"))


def defined(source: str) -> Callable[..., Any]:
    space: dict[str, Any] = {}
    exec(f"import functools\n{source}", space)
    made: Callable[..., Any] = space["f"]
    return made


@pytest.mark.parametrize(
    ("source", "got"),
    [
        ("def f(): return ()", ()),
        ("def f(session_id): return session_id", "desk"),
        ("def f(anything): return anything", "desk"),
        ("def f(principal): return principal", "ada"),
        ("def f(*, principal): return principal", "ada"),
        ("def f(principal, /): return principal", "ada"),
        ("def f(principal=None): return principal", "ada"),
        ("def f(session_id, principal): return session_id, principal", ("desk", "ada")),
        ("def f(principal, session_id): return session_id, principal", ("desk", "ada")),
        ("def f(principal, session_id, /): return session_id, principal", ("desk", "ada")),
        ("def f(session_id, *, principal): return session_id, principal", ("desk", "ada")),
        ("def f(sid, *, principal): return sid, principal", ("desk", "ada")),
        ("def f(sid, principal): return sid, principal", ("desk", "ada")),
        ("def f(principal, sid): return sid, principal", ("desk", "ada")),
        ("def f(principal, sid, /): return sid, principal", ("desk", "ada")),
        ("def f(*, session_id, principal): return session_id, principal", ("desk", "ada")),
        ("def f(model='x', principal='y'): return model, principal", ("x", "ada")),
        ("def f(session_id, model='x', principal='y'): return session_id, model, principal", ("desk", "x", "ada")),
        ("def f(model='x', principal='y', /): return model, principal", ("x", "y")),
        ("def f(model='x', principal='y', /, *, session_id): return principal, session_id", ("y", "desk")),
        ("def f(verbose=True): return verbose", True),
        ("def f(*principal, **session_id): return principal, session_id", ((), {})),
        ("async def f(session_id, principal): return session_id, principal", ("desk", "ada")),
        ("async def f(sid, principal): return sid, principal", ("desk", "ada")),
        (
            "def g(model, principal, session_id): return model, principal, session_id\nf = functools.partial(g, 'x')",
            ("x", "ada", "desk"),
        ),
        (
            "def g(m, session_id, principal): return m, principal, session_id\nf = functools.partial(g, m='x')",
            ("x", "ada", "desk"),
        ),
        (
            "def g(sid, principal): return sid, principal\nf = functools.wraps(g)(lambda *given: g(*given))",
            ("desk", "ada"),
        ),
        ("class F:\n    def __call__(self, principal, sid): return sid, principal\nf = F()", ("desk", "ada")),
    ],
)
def test_each_argument_goes_to_the_parameter_of_its_name(source: str, got: object) -> None:
    target = target_for(defined(source), "f")
    assert isinstance(target, FactoryTarget)
    assert asyncio.run(target._made(KEY)) == got


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def f(session_id, model): ...", "takes `model`, which Strandline does not pass"),
        ("def f(principal, one, two): ...", "takes `one` and `two`, which Strandline does not pass"),
        ("def f(sid, *, session_id): ...", "takes `sid`, which Strandline does not pass"),
        ("def f(principal, *, model): ...", "needs the keyword `model`"),
        ("async def f(message, principal): ...", "`session.principal`"),
        ("async def f(message, principal): yield", "`session.principal`"),
    ],
)
def test_what_cannot_be_given_is_refused_with_what_to_write(source: str, said: str) -> None:
    with pytest.raises(TargetError) as refused:
        target_for(defined(source), "f")
    assert said in str(refused.value)


def test_a_function_of_two_other_parameters_stays_a_function() -> None:
    for source in ("async def f(message, session): ...", "async def f(session_id, session): ..."):
        assert isinstance(target_for(defined(source), "f"), FunctionTarget)


def test_a_function_gets_its_caller(tmp_path: Path) -> None:
    async def whose(message: str, session: Session) -> str:
        return f"{session.principal} {session.context.principal} {session.id}"

    async def main() -> None:
        async with serving(target_for(whose, "whose"), tmp_path) as service:
            ticket = await send(service, "m", "desk", "ada")
            end = await asyncio.wait_for(ticket.stream.outcome(), 20)
            assert isinstance(end, Outcome)
            assert end.output == "ada ada desk"

    run(main)


def test_at_the_start_a_factory_is_tried_as_a_principal_of_our_own() -> None:
    tried: list[object] = []

    def make(session_id, *, principal):  # type: ignore[no-untyped-def]
        tried.append((session_id, principal))
        return Agent(model=ScriptedModel(lambda _: "fine"))

    target = target_for(make, "make")
    assert isinstance(target, FactoryTarget)
    asyncio.run(target.probe())
    assert target.resumable
    assert tried == [(PROBE_SESSION, PROBE_SESSION)]


def test_parameters_say_whether_a_principal_is_taken() -> None:
    assert Parameters.of(inspect.signature(lambda sid, principal: None)) == Parameters(("session_id", "principal"))
    assert Parameters.of(inspect.signature(lambda message, session: None)) is None
    assert not NOTHING.principal
    assert not SESSION_ID.principal
    assert Parameters(by_name={"principal": "principal"}).principal


SELF_MANAGED = "def f(session_id): ...", "def f(): ..."


@pytest.mark.parametrize("source", SELF_MANAGED)
def test_with_keys_a_factory_that_keeps_history_must_take_the_principal(source: str) -> None:
    with pytest.raises(TargetError) as refused:
        target_for(defined(source), "agent.py:f", history="session_manager", keys=True)
    said = str(refused.value)
    assert "def make_agent(session_id, principal):" in said
    assert 'storage_dir=f"kept/{principal}"' in said
    assert isinstance(target_for(defined(source), "f", history="session_manager"), FactoryTarget)
    assert isinstance(target_for(defined(source), "f", keys=True), FactoryTarget)
    taking = defined("def f(session_id, principal): ...")
    assert isinstance(target_for(taking, "f", history="session_manager", keys=True), FactoryTarget)
