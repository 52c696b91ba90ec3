"""Agents of frameworks whose model is a server: `python ask_frameworks.py BASE_URL` answers each line of JSON.

A request is `{session_id, text, through}`, what came of it `{text}` or `{error}`. Each has a tool
`weather(city)`, which it executes itself; some want an answer in a form.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import openai
from agents import Agent, ModelSettings, OpenAIChatCompletionsModel, Runner, function_tool, set_tracing_disabled
from langchain.agents import create_agent
from langchain.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

set_tracing_disabled(disabled=True)
BASE_URL = sys.argv[1]


class Step(BaseModel):
    a: int
    b: list[str]


def weather(city: str) -> str:
    """Return the weather in a city."""
    return f"sunny in {city}"


def connected(session_id: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=BASE_URL, api_key="none", default_headers={"X-Session-Id": session_id})


def agents_agent(session_id: str, **options: Any) -> Any:
    model = OpenAIChatCompletionsModel(model="any", openai_client=connected(session_id))
    tools = [function_tool(weather)]
    return Agent(name="caller", model=model, tools=tools, model_settings=ModelSettings(), **options)


async def agents(session_id: str, text: str) -> str:
    return str((await Runner.run(agents_agent(session_id), text)).final_output)


async def agents_streamed(session_id: str, text: str) -> str:
    result = Runner.run_streamed(agents_agent(session_id), text)
    async for _ in result.stream_events():
        pass
    return str(result.final_output)


async def agents_output(session_id: str, text: str) -> str:
    result = await Runner.run(agents_agent(session_id, output_type=Step), text)
    return repr(result.final_output)


async def agents_handoff(session_id: str, text: str) -> str:
    other = agents_agent(session_id)
    other.name = "other"
    result = await Runner.run(Agent(name="first", model=other.model, handoffs=[other]), text)
    return f"{result.last_agent.name}: {result.final_output}"


def pydantic_agent(session_id: str, **options: Any) -> Any:
    model = OpenAIChatModel("any", provider=OpenAIProvider(openai_client=connected(session_id)))
    return PydanticAgent(model, tools=[weather], **options)


async def pydantic_ai(session_id: str, text: str) -> str:
    return str((await pydantic_agent(session_id).run(text)).output)


async def pydantic_ai_output(session_id: str, text: str) -> str:
    return repr((await pydantic_agent(session_id, output_type=Step).run(text)).output)


async def pydantic_ai_native(session_id: str, text: str) -> str:
    return repr((await pydantic_agent(session_id, output_type=NativeOutput(Step)).run(text)).output)


async def langchain(session_id: str, text: str) -> str:
    headers = {"X-Session-Id": session_id}
    model = ChatOpenAI(model="any", base_url=BASE_URL, api_key="none", default_headers=headers)
    agent: Any = create_agent(model, [tool(weather)])
    done = await agent.ainvoke({"messages": [{"role": "user", "content": text}]})
    return str(done["messages"][-1].content)


THROUGH: dict[str, Callable[[str, str], Awaitable[str]]] = {
    each.__name__: each
    for each in (
        agents, agents_streamed, agents_output, agents_handoff, pydantic_ai, pydantic_ai_output, pydantic_ai_native,
        langchain,
    )
}  # fmt: skip


async def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        said: dict[str, Any]
        try:
            said = {"text": await THROUGH[request["through"]](request["session_id"], request["text"])}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


asyncio.run(main())
