"""`BedrockAgentCoreApp` with an agent for each session id, which the app hands to its entry point."""

from collections.abc import AsyncIterator
from typing import Any

from bedrock_agentcore import BedrockAgentCoreApp, RequestContext
from strands import Agent

from bench.peers.agent import make_agent
from bench.peers.apps.serving import listen, serve

AGENTS: dict[str, Agent] = {}


async def pieces(agent: Agent, prompt: str) -> AsyncIterator[dict[str, str]]:
    """Yield the text as it comes."""
    async for event in agent.stream_async(prompt):
        if "data" in event:
            yield {"data": event["data"]}


async def invoke(payload: dict[str, Any], context: RequestContext) -> Any:
    """Answer a prompt, or stream the answer."""
    session = context.session_id or "default"
    if session not in AGENTS:
        AGENTS[session] = make_agent(session)
    if payload.get("stream"):
        return pieces(AGENTS[session], payload["prompt"])
    return {"result": str(await AGENTS[session].invoke_async(payload["prompt"]))}


if __name__ == "__main__":
    app = BedrockAgentCoreApp()
    app.entrypoint(invoke)
    serve(app, *listen())
