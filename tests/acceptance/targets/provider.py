"""An agent on a model that is asked over HTTP, in OpenAI's form, at `PROVIDER_URL`."""

import os

from strands import Agent, tool
from strands.models.openai import OpenAIModel

from strandline.testing import fast_retries


@tool
def weather(city: str) -> str:
    """Return the weather.

    Args:
        city: where
    """
    return f"sunny in {city}"


def make_agent() -> Agent:
    """Build the agent of one session."""
    arguments = {"api_key": "none", "base_url": os.environ["PROVIDER_URL"], "max_retries": 0}
    model = OpenAIModel(client_args=arguments, model_id="fake")
    return Agent(model=model, tools=[weather], retry_strategy=fast_retries(max_attempts=2))
