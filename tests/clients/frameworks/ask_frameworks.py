"""Agents of frameworks whose model is a server: `python ask_frameworks.py BASE_URL` answers each line of JSON.

A request is `{session_id, text, through, api: "chat" | "responses"}`, what came of it `{text}` or `{error}`. Each has a
tool `weather(city)`, which it executes itself; some want an answer in a form. By `responses` the header of the session
has them send their whole list; those named `chained` send what is new.
"""

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIChatCompletionsModel,
    OpenAIResponsesModel,
    Runner,
    function_tool,
    set_tracing_disabled,
)
from langchain.agents import create_agent
from langchain.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel
from pydantic_ai import Agent as PydanticAgent
from pydantic_ai import NativeOutput
from pydantic_ai.models.openai import (
    OpenAIChatModel,
    OpenAIResponsesModelSettings,
)
from pydantic_ai.models.openai import (
    OpenAIResponsesModel as PydanticResponses,
)
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
    headers = {"X-Session-Id": session_id} if session_id else {}
    return openai.AsyncOpenAI(base_url=BASE_URL, api_key="none", default_headers=headers)


def agents_agent(api: str, session_id: str, **options: Any) -> Any:
    kind: Any = OpenAIResponsesModel if api == "responses" else OpenAIChatCompletionsModel
    model = kind(model="any", openai_client=connected(session_id))
    tools = [function_tool(weather)]
    return Agent(name="caller", model=model, tools=tools, model_settings=ModelSettings(), **options)


async def agents(api: str, session_id: str, text: str) -> str:
    return str((await Runner.run(agents_agent(api, session_id), text)).final_output)


async def agents_streamed(api: str, session_id: str, text: str) -> str:
    result = Runner.run_streamed(agents_agent(api, session_id), text)
    async for _ in result.stream_events():
        pass
    return str(result.final_output)


async def agents_conversation(api: str, session_id: str, text: str) -> str:
    return str((await Runner.run(agents_agent(api, ""), text, conversation_id=session_id)).final_output)


async def agents_chained(api: str, session_id: str, text: str) -> str:
    return str((await Runner.run(agents_agent(api, ""), text, auto_previous_response_id=True)).final_output)


async def agents_output(api: str, session_id: str, text: str) -> str:
    result = await Runner.run(agents_agent(api, session_id, output_type=Step), text)
    return repr(result.final_output)


async def agents_handoff(api: str, session_id: str, text: str) -> str:
    other = agents_agent(api, session_id)
    other.name = "other"
    result = await Runner.run(Agent(name="first", model=other.model, handoffs=[other]), text)
    return f"{result.last_agent.name}: {result.final_output}"


def pydantic_agent(api: str, session_id: str, **options: Any) -> Any:
    kind: Any = PydanticResponses if api == "responses" else OpenAIChatModel
    model = kind("any", provider=OpenAIProvider(openai_client=connected(session_id)))
    return PydanticAgent(model, tools=[weather], **options)


async def pydantic_ai(api: str, session_id: str, text: str) -> str:
    return str((await pydantic_agent(api, session_id).run(text)).output)


async def pydantic_ai_chained(api: str, session_id: str, text: str) -> str:
    settings = OpenAIResponsesModelSettings(openai_previous_response_id="auto")
    return str((await pydantic_agent(api, "").run(text, model_settings=settings)).output)


async def pydantic_ai_output(api: str, session_id: str, text: str) -> str:
    return repr((await pydantic_agent(api, session_id, output_type=Step).run(text)).output)


async def pydantic_ai_native(api: str, session_id: str, text: str) -> str:
    return repr((await pydantic_agent(api, session_id, output_type=NativeOutput(Step)).run(text)).output)


def langchain_agent(api: str, headers: dict[str, str], **options: Any) -> Any:
    by_responses = api == "responses"
    model = ChatOpenAI(
        model="any",
        base_url=BASE_URL,
        api_key="none",
        default_headers=headers,
        use_responses_api=by_responses,
        **options,
    )
    return create_agent(model, [tool(weather)])


async def langchain(api: str, session_id: str, text: str) -> str:
    agent = langchain_agent(api, {"X-Session-Id": session_id})
    done = await agent.ainvoke({"messages": [{"role": "user", "content": text}]})
    return str(done["messages"][-1].text)


async def langchain_chained(api: str, session_id: str, text: str) -> str:
    agent = langchain_agent(api, {}, use_previous_response_id=True)
    done = await agent.ainvoke({"messages": [{"role": "user", "content": text}]})
    return str(done["messages"][-1].text)


THROUGH: dict[str, Callable[[str, str, str], Awaitable[str]]] = {
    each.__name__: each
    for each in (
        agents, agents_streamed, agents_conversation, agents_chained, agents_output, agents_handoff, pydantic_ai,
        pydantic_ai_chained, pydantic_ai_output, pydantic_ai_native, langchain, langchain_chained,
    )
}  # fmt: skip


async def main() -> None:
    for line in sys.stdin:
        request = json.loads(line)
        ask, said = THROUGH[request["through"]], dict[str, Any]()
        try:
            said = {"text": await ask(request["api"], request["session_id"], request["text"])}
        except Exception as error:
            said = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(said), flush=True)


asyncio.run(main())
