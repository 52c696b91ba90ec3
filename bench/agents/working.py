"""The agents of the benchmark of cores: `make_agent` works in rounds of tools and says a long answer, `burn` computes
in one of them for some 20 ms, `waiting` has a model that takes 100 ms, `function` does nothing."""

import asyncio

from strands import Agent, tool
from strands.types.content import Messages

from strandline._scripted.model import Answer, call, results, say
from strandline.testing import ScriptedModel

TEXT = "A sentence of an answer that a person might like to read. " * 15
STEPS = 400_000
"""So many steps of a loop take a processor some 20 ms."""


@tool
def look_up(query: str) -> str:
    """Look something up."""
    return f"5 results for {query}"


@tool
def compute(query: str) -> str:
    """Compute something."""
    total = 0
    for number in range(STEPS):
        total += number & 7
    return f"{query}: {total}"


def in_rounds(messages: Messages) -> Answer:
    """Two tools at once, one more, and a text in 55 pieces."""
    given = results(messages)
    if not given:
        return [say("Let me look. "), call("look_up", {"query": "Italy"}), call("look_up", {"query": "Rome"})]
    return [call("look_up", {"query": "age"})] if len(given) == 2 else TEXT


def computing(messages: Messages) -> Answer:
    """One tool that computes, and a short text."""
    return "That is it." if results(messages) else [call("compute", {"query": "primes"})]


async def far_away(messages: Messages) -> Answer:
    """A short text, from a model that is elsewhere."""
    await asyncio.sleep(0.1)
    return "That is it."


ROUNDS, COMPUTING = ScriptedModel(in_rounds), ScriptedModel(computing)
FAR_AWAY = ScriptedModel(far_away)


def make_agent(session_id: str) -> Agent:
    return Agent(model=ROUNDS, tools=[look_up], callback_handler=None)


def burn(session_id: str) -> Agent:
    return Agent(model=COMPUTING, tools=[compute], callback_handler=None)


def waiting(session_id: str) -> Agent:
    return Agent(model=FAR_AWAY, callback_handler=None)


async def function(message: str, session: object) -> str:
    return "done"
