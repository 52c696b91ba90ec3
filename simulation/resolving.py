"""People who find out what the tools of a crashed run have done, and have it continue."""

import asyncio
from functools import partial
from typing import Final

from msgspec.structs import replace

from simulation.agents import SAYS
from simulation.server import Gone
from simulation.town import Town, requested
from strandline._engine.requests import CheckedTool, Request, ToolOutcome, resolution, resolve_request
from strandline._engine.service import Service
from strandline._journal.port import OpenTool
from strandline._model import ErrorCode, Outcome, Run, RunId, SessionKey
from strandline.errors import StrandlineError

PEOPLE: Final = ("Eva", "Jon")
UNKNOWN: Final = "nobody's"
"""A tool that no run has."""


def has_crashed(outcome: Outcome) -> bool:
    """Return whether a run has crashed."""
    return outcome.error is not None and outcome.error.code is ErrorCode.CRASHED


async def resolving(town: Town, key: SessionKey, crashed: RunId) -> Request | None:
    """Find out what the tools of a crashed run have done; return the request to have it continue, if it can.

    What took effect is done, anything else is not. Now and then a tool is left out, or is one of no run.
    """
    chance, name, by = town.habits.checks, town.new_text(), town.habits.checks.choice(PEOPLE)
    await asyncio.sleep(chance.random() ** 2 * 6)
    server = town.reached()
    if server is None or not server.ready:
        return None
    town.note("checking", name, crashed=crashed)
    try:
        server, run = await requested(town, server, lambda service: service.crashed(key.principal, crashed))
        server, tools = await requested(town, server, partial(_open_tools, run))
    except StrandlineError as error:
        town.note("unchecked", name, code=error.code)
        return None
    except Gone:
        return None
    town.note("checked", name, crashed=crashed, tools=[each.tool_use_id for each in tools])
    await asyncio.sleep(chance.random() ** 3 * 3)
    named = [each.tool_use_id for each in tools]
    if chance.random() < 0.1:
        named = [*named, UNKNOWN] if chance.random() < 0.5 else named[1:]
    found = [_checked(town, each, f"{name} saw {each}") for each in named]
    says = str(run.metadata.get(SAYS, run.metadata["text"]))
    town.scripts[name] = town.scripts[says]
    key_of = {"idempotency_key": f"k-{name}"} if chance.random() < town.traits.keys else {}
    request = replace(
        resolve_request(run, found, trusts_senders=True, timeout_s=None, idempotency_key=None),
        metadata={"text": name, SAYS: says},
        fingerprint=name.encode() if key_of else b"",
        **key_of,
    )
    town.resolutions[name] = resolution(crashed, found, by=by)
    town.note(
        "resolving",
        name,
        crashed=crashed,
        by=by,
        done={each.tool_use_id: str(each.result) for each in found if each.outcome is ToolOutcome.DONE},
        not_done=tuple(each.tool_use_id for each in found if each.outcome is ToolOutcome.NOT_DONE),
        is_whole={*named} == {each.tool_use_id for each in tools},
    )
    return request


async def _open_tools(run: Run, service: Service) -> list[OpenTool]:
    return await service.unresolved(run.key.principal, run.run_id)


def _checked(town: Town, tool_use_id: str, said: str) -> CheckedTool:
    """Return what became of a tool, as it can be seen."""
    if town.has_effect(tool_use_id):
        return CheckedTool(tool_use_id, ToolOutcome.DONE, said)
    return CheckedTool(tool_use_id, ToolOutcome.NOT_DONE)
