"""ag-ui-strands: its agent, from which it makes one for each thread, and its FastAPI app.

The server keeps the conversation, as all others do: by default ag-ui-strands takes it from each request.
"""

from ag_ui_strands import StrandsAgent, StrandsAgentConfig, create_strands_app

from bench.peers.agent import make_agent
from bench.peers.apps.serving import listen, serve

if __name__ == "__main__":
    config = StrandsAgentConfig(replay_history_into_strands=False)
    agent = StrandsAgent(make_agent("template"), name="bench", description="Says what its script says.", config=config)
    serve(create_strands_app(agent, path="/"), *listen())
