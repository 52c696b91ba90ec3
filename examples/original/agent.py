"""The agent of the original runner: its prompt, its tools, its skills and its MCP servers, from where it had them."""

import json
import logging
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any

from mcp import StdioServerParameters, stdio_client
from mcp.client.sse import sse_client
from script import model as scripted
from strands import Agent
from strands.agent.conversation_manager import SummarizingConversationManager
from strands.tools.mcp import MCPClient
from strands.vended_plugins.skills import AgentSkills
from strands_tools import editor, file_read, file_write, load_tool, python_repl, shell, use_agent

from strandline.providers import load_model

log = logging.getLogger("agent")

AGENT = Path("/data/.agent")
WORKSPACE = Path("/data/workspace")
CUSTOM_PROMPTS = (AGENT / "system_prompt.txt", Path("/data/system_prompt.txt"))
TOOLS = Path("/app/tools")
SKILLS = (AGENT / "skills", Path("/app/skills"))
PROMPTS = (AGENT / "SYSTEM_PROMPT.md", Path("/app/SYSTEM_PROMPT.md"))
MODEL = os.environ.get("AGENT_MODEL", "bedrock:global.anthropic.claude-opus-4-6-v1")
OWN_TOOLS = [file_read, file_write, editor, shell, use_agent, python_repl, load_tool]

PROMPT = f"""You are a helpful AI assistant in a container of your own.

Work in {WORKSPACE}: files there outlive the container, files elsewhere do not. You have tools for files, a shell,
Python, sub-agents and for loading more tools. Test your work before you commit it."""
WHERE = f"Your workspace is {WORKSPACE}: files there outlive the container, files elsewhere do not."


def system_prompt() -> str:
    """Return what the host has set, else a file's, else ours; with what the host says is available."""
    parts = [PROMPT]
    if os.environ.get("CUSTOM_SYSTEM_PROMPT") == "true" and (custom := first_text(CUSTOM_PROMPTS)):
        parts = [custom, WHERE]
    elif found := first_text(PROMPTS):
        parts = [found]
    if known := capabilities(os.environ.get("AGENT_ENV_METADATA", "")):
        parts.append(f"Environment capabilities:\n{known}")
    return "\n\n".join(parts)


def first_text(files: tuple[Path, ...]) -> str:
    """Return what the first file says that is there and says something."""
    texts = (each.read_text(encoding="utf-8") for each in files if each.is_file())
    return next((text for text in texts if text.strip()), "")


def capabilities(metadata: str) -> str:
    """Return a line for each thing that the host says is available."""
    try:
        each = json.loads(metadata or "{}").values()
        return "\n".join(f"- {one['capability']}" for one in each if one.get("available"))
    except (ValueError, AttributeError, KeyError, TypeError):
        log.warning("AGENT_ENV_METADATA is not what it should be, and is left out")
        return ""


def connections() -> list[tuple[str, Callable[[], Any]]]:
    """Return how each MCP server of `mcp.json` is reached."""
    file = AGENT / "mcp.json"
    if not file.exists() and (named := os.environ.get("CONTAINERIZED_AGENTS_MCP_CONFIG")):
        file = Path(named).expanduser()
    if not file.exists():
        return []
    made: list[tuple[str, Callable[[], Any]]] = []
    for name, server in json.loads(file.read_text(encoding="utf-8")).get("mcpServers", {}).items():
        try:
            if not server.get("disabled"):
                made.append((name, connection(server)))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning("MCP server %s is not what it should be, and is left out: %r", name, error)
    return made


def connection(server: dict[str, Any]) -> Callable[[], Any]:
    """Return what connects to a server: a command that is started here, or an address."""
    if "command" in server:
        given = {key: os.path.expandvars(str(value)) for key, value in (server.get("env") or {}).items()}
        variables = {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], **given}
        start = StdioServerParameters(command=server["command"], args=server.get("args") or [], env=variables)
        return lambda: stdio_client(start)
    url = server["url"]
    return lambda: sse_client(url)


def mcp_tools() -> tuple[Any, ...]:
    """Return the tools of all MCP servers that can be reached; each is started once, even under concurrent calls."""
    with connecting:
        return connected()


connecting = Lock()


@cache
def connected() -> tuple[Any, ...]:
    """Connect to all MCP servers; their clients serve the agents of all sessions."""
    tools: list[Any] = []
    try:
        for name, connect in connections():
            client = MCPClient(connect)
            try:
                client.start()
                tools += client.list_tools_sync()
            except Exception as error:
                log.warning("MCP server %s cannot be reached and is left out: %s", name, error)
    except (OSError, ValueError, KeyError, AttributeError) as error:
        log.warning("mcp.json cannot be read and is left out: %s", error)
    return tuple(tools)


def skills() -> list[AgentSkills]:
    """Return what makes the skills of the first folder known that has some."""
    found = next((each for each in SKILLS if any(each.glob("*/SKILL.md"))), None)
    return [] if found is None else [AgentSkills(skills=str(found))]


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session."""
    agent = Agent(
        model=scripted if MODEL == "scripted" else load_model(MODEL),
        system_prompt=system_prompt(),
        tools=[*OWN_TOOLS, *mcp_tools()],
        plugins=[*skills()],
        conversation_manager=SummarizingConversationManager(),
    )
    for file in sorted(TOOLS.glob("*.py")):
        try:
            agent.tool_registry.load_tool_from_filepath(file.stem, str(file))
        except Exception as error:
            log.warning("the tool %s cannot be loaded and is left out: %s", file.name, error)
    return agent
