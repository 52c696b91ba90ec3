"""After: the same agent, made anew for each session. Queue, routes, sessions and idle timeout are Strandline's."""

from script import model
from strands import Agent

from tools import lend, lent


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session."""
    return Agent(model=model, tools=[lend, lent])
