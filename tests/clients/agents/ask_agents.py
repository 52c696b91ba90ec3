"""OpenAI's agents: `python ask_agents.py BASE_URL` answers each line of JSON that it reads.

A request is `{session_id, text, form: "whole" | "stream", through: "conversation" | "list" | "edited list", corrects}`,
what came of it is `{text}`, or `{status, error}`. With a list its own copy of the conversation goes along, and a header
names the session; an edited one counts. `corrects`: the last turn is taken out of it before.
"""

import asyncio
import json
import sys
from typing import Any

import openai
from agents import (
    Agent,
    ModelSettings,
    OpenAIResponsesModel,
    Runner,
    RunResultStreaming,
    SQLiteSession,
    set_tracing_disabled,
)
from agents.exceptions import AgentsException

set_tracing_disabled(disabled=True)
client = openai.AsyncOpenAI(base_url=sys.argv[1], api_key="none")
sessions: dict[str, SQLiteSession] = {}


async def ask(session_id: str, text: str, form: str, through: str, *, corrects: bool = False) -> str:
    """Ask once, and return the answer."""
    model = OpenAIResponsesModel(model="any", openai_client=client)
    options: dict[str, Any] = {"conversation_id": session_id}
    settings = ModelSettings()
    if corrects:
        while (await sessions[session_id].pop_item() or {"role": "user"}).get("role") != "user":
            pass
    if through in ("list", "edited list"):
        options = {"session": sessions.setdefault(session_id, SQLiteSession(session_id))}
        history = {"X-Client-History": "follow"} if through == "edited list" else {}
        settings = ModelSettings(extra_headers={"X-Session-Id": session_id, **history})
    agent = Agent(name="caller", instructions="be brief", model=model, model_settings=settings)
    if form == "whole":
        return str((await Runner.run(agent, text, **options)).final_output)
    result: RunResultStreaming = Runner.run_streamed(agent, text, **options)
    async for _ in result.stream_events():
        pass
    return str(result.final_output)


async def main() -> None:
    for line in sys.stdin:
        said: dict[str, Any]
        try:
            said = {"text": await ask(**json.loads(line))}
        except (openai.APIError, AgentsException) as error:
            said = {"status": getattr(error, "status_code", None), "error": str(error)}
        print(json.dumps(said), flush=True)


asyncio.run(main())
