"""The compared servers: command, protocol, packages, and notes for readers."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.peers import protocols
from bench.peers.protocols import Dialect
from bench.processes import LOCK, ROOT, STRANDLINE

AGENT: Final = str(ROOT / "bench" / "peers" / "agent.py")
LOOP_AGENT: Final = "bench.peers.agent"
LOOP: Final = "loop"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a server keeps what it keeps."""

    folder: Path
    database: str = ""
    """The URL of a database of its own, if it needs one."""


Command = Callable[[Place], Sequence[str]]
"""Returns the command line of a server that keeps its things there."""


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
    needs_database: bool = False
    takeover_s: float = 0.0
    """How long it waits after kill -9, by design, before it continues what another process had accepted."""


def _app(name: str) -> Sequence[str]:
    return [sys.executable, "-m", f"bench.peers.apps.{name}"]


def _strandline(journal: str) -> Sequence[str]:
    return [*STRANDLINE, AGENT, "--port", "0", "--journal", journal]


SERVERS: Final = (
    Subject(
        "lock",
        "FastAPI and a lock",
        ("fastapi", "strands-agents"),
        lambda place: [*LOCK, f"{AGENT}:make_agent"],
        protocols.Lock(),
        "An `asyncio.Lock` per session, everything in memory (`tests/alternatives/lock.py`).",
    ),
    Subject(
        "agentcore",
        "`BedrockAgentCoreApp`",
        ("bedrock-agentcore", "strands-agents"),
        lambda place: _app("agentcore"),
        protocols.AgentCore(),
        "The app alone, with an agent per session id in one process. AgentCore Runtime gives each session a microVM of"
        " its own. Health is `/ping`.",
    ),
    Subject(
        "a2a",
        "Strands `A2AServer`",
        ("strands-agents", "a2a-sdk"),
        lambda place: _app("a2a"),
        protocols.A2A(),
        "With `agent_factory` and its in-memory task store, `message/send`. It has no health route: its agent card is"
        " asked for.",
    ),
    Subject(
        "agui",
        "ag-ui-strands",
        ("ag-ui-strands", "strands-agents"),
        lambda place: _app("agui"),
        protocols.AgUi(),
        "It only streams, so an answer is a whole stream. `replay_history_into_strands=False`, so that the server keeps"
        " the conversation. Health is `/ping`.",
    ),
    Subject(
        "agno",
        "Agno AgentOS",
        ("agno",),
        lambda place: [*_app("agno"), str(place.folder / "agno.db")],
        protocols.Agno(),
        "An Agno agent with the same script, not a Strands one. Its plain endpoint, sessions in SQLite, 20 runs of"
        " history; `background=true` needs PostgreSQL ([compared here](comparison.md#with-other-servers)).",
    ),
    Subject(
        "memory",
        "**Strandline**, memory",
        ("strandline", "strands-agents"),
        lambda place: _strandline("memory:"),
        protocols.Strandline(),
        "The memory journal keeps nothing over a restart, by design.",
    ),
    Subject(
        "sqlite",
        "**Strandline**, SQLite",
        ("strandline", "strands-agents"),
        lambda place: _strandline(f"sqlite:{place.folder / 'journal.db'}"),
        protocols.Strandline(),
    ),
    Subject(
        "postgresql",
        "**Strandline**, PostgreSQL",
        ("strandline", "strands-agents", "psycopg"),
        lambda place: _strandline(place.database),
        protocols.Strandline(),
        "One of what could be [several](several-servers.md), over a PostgreSQL on the same machine, with `fsync`."
        " PostgreSQL's own processor time and memory are not counted; it shares the load generator's core. After"
        " `kill -9` the lease of the dead server has to end first, 10 s.",
        needs_database=True,
        takeover_s=12.0,
    ),
)

NAMES: Final = {LOOP: "the agent in a loop", **{each.key: each.name for each in SERVERS}}
NOTES: Final = {
    LOOP: "Called in its own process, without a server, its agents in turn. It has no requests to queue, refuse,"
    " stream or keep. Strandline can take less time than it: it does without the spans that Strands writes and nobody"
    " records ([traces](traces.md#what-it-costs)).",
    **{each.key: each.note for each in SERVERS},
}
