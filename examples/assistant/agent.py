"""An assistant that keeps notes. Each session has a folder of its own for them, which outlives the server."""

import re
from pathlib import Path

from script import model
from strands import Agent, ToolContext, tool


@tool(context=True)
def write_note(title: str, text: str, tool_context: ToolContext) -> str:
    """Keep a note, in place of an older one of that title.

    Args:
        title: A few words.
        text: What to keep.
    """
    note = notes(tool_context) / f"{slug(title)}.md"
    note.write_text(text)
    return f"Kept as {note.name}."


@tool(context=True)
def read_note(title: str, tool_context: ToolContext) -> str:
    """Read a note.

    Args:
        title: The title that it was kept under.
    """
    return (notes(tool_context) / f"{slug(title)}.md").read_text()


@tool(context=True)
def list_notes(tool_context: ToolContext) -> str:
    """List the titles of all notes."""
    return ", ".join(sorted(note.stem for note in notes(tool_context).glob("*.md"))) or "There are no notes."


def notes(tool_context: ToolContext) -> Path:
    """Return the session's own folder. It is there already."""
    return Path(tool_context.invocation_state["workspace"])


def slug(title: str) -> str:
    """Return the title as a file's name: a model may write anything, also `../..`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "untitled"


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session."""
    return Agent(
        model=model,
        tools=[write_note, read_note, list_notes],
        system_prompt="You keep notes for the person you talk to. Look into them before you say that you do not know.",
    )
