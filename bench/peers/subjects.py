"""The compared servers: command, protocol, packages, and notes for readers."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.peers import protocols
from bench.peers.protocols import Dialect
from bench.servers import LOCK, ROOT, STRANDLINE

AGENT: Final = str(ROOT / "bench" / "peers" / "agent.py")
LOOP_AGENT: Final = "bench.peers.agent"
LOOP: Final = "loop"

Command = Callable[[Path], Sequence[str]]
"""Returns the command line of a server whose files are in a folder."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One server."""

    key: str
    name: str
    packages: tuple[str, ...]
    """Whose versions it is, the first one before all."""
    command: Command
    dialect: Dialect
    note: str = ""


def _app(name: str) -> Sequence[str]:
    return [sys.executable, "-m", f"bench.peers.apps.{name}"]


def _strandline(journal: str) -> Sequence[str]:
    return [*STRANDLINE, AGENT, "--port", "0", "--journal", journal]


SERVERS: Final = (
    Subject(
        "lock",
        "FastAPI and a lock",
        ("fastapi", "strands-agents"),
        lambda folder: [*LOCK, f"{AGENT}:make_agent"],
        protocols.Lock(),
        "An `asyncio.Lock` per session, everything in memory (`tests/alternatives/lock.py`).",
    ),
    Subject(
        "agentcore",
        "`BedrockAgentCoreApp`",
        ("bedrock-agentcore", "strands-agents"),
        lambda folder: _app("agentcore"),
        protocols.AgentCore(),
        "The app alone, with an agent per session id in one process. AgentCore Runtime gives each session a microVM of"
        " its own. Health is `/ping`.",
    ),
    Subject(
        "a2a",
        "Strands `A2AServer`",
        ("strands-agents", "a2a-sdk"),
        lambda folder: _app("a2a"),
        protocols.A2A(),
        "With `agent_factory` and its in-memory task store, `message/send`. It has no health route: its agent card is"
        " asked for.",
    ),
    Subject(
        "agui",
        "ag-ui-strands",
        ("ag-ui-strands", "strands-agents"),
        lambda folder: _app("agui"),
        protocols.AgUi(),
        "It only streams, so an answer is a whole stream. `replay_history_into_strands=False`, so that the server keeps"
        " the conversation. Health is `/ping`.",
    ),
    Subject(
        "agno",
        "Agno AgentOS",
        ("agno",),
        lambda folder: [*_app("agno"), str(folder / "agno.db")],
        protocols.Agno(),
        "An Agno agent with the same script, not a Strands one. Its plain endpoint, sessions in SQLite, 20 runs of"
        " history; `background=true` needs PostgreSQL ([compared here](comparison.md#with-other-servers)).",
    ),
    Subject(
        "memory",
        "**Strandline**, memory",
        ("strandline", "strands-agents"),
        lambda folder: _strandline("memory:"),
        protocols.Strandline(),
        "The memory journal keeps nothing over a restart, by design.",
    ),
    Subject(
        "sqlite",
        "**Strandline**, SQLite",
        ("strandline", "strands-agents"),
        lambda folder: _strandline(f"sqlite:{folder / 'journal.db'}"),
        protocols.Strandline(),
    ),
)

NAMES: Final = {LOOP: "the agent in a loop", **{each.key: each.name for each in SERVERS}}
NOTES: Final = {
    LOOP: "Called in its own process, without a server, its agents in turn. It has no requests to queue, refuse,"
    " stream or keep. Strandline can take less time than it: it does without the spans that Strands writes and nobody"
    " records ([traces](traces.md#what-it-costs)).",
    **{each.key: each.note for each in SERVERS},
}
