"""An agent in an image of its own. With a key in its environment a real model answers, without one a script."""

import os

from script import scripted
from strands import Agent

from strandline.providers import load_model

model = load_model("openai:gpt-4o-mini") if os.environ.get("OPENAI_API_KEY") else scripted


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session."""
    return Agent(model=model, system_prompt="Answer in one sentence.")
