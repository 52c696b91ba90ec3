"""Strands' `A2AServer` with a factory: an agent and a lock for each context."""

from strands import Agent
from strands.multiagent.a2a import A2AServer

from bench.peers.agent import make_agent
from bench.peers.apps.serving import listen, serve


def named(context_id: str) -> Agent:
    """Build the agent of a context; its card needs a name and a description."""
    agent = make_agent(context_id)
    agent.name, agent.description = "bench", "Says what its script says."
    return agent


if __name__ == "__main__":
    listener, url = listen()
    server = A2AServer(agent_factory=named, http_url=url, enable_a2a_compliant_streaming=True)
    serve(server.to_starlette_app(), listener, url)
