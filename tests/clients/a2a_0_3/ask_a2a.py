"""The client of `a2a-sdk` 0.3, and Strands' `A2AAgent`, which uses it.

`python ask_a2a.py URL [KEY]` reads one request per line, as JSON, and writes what came of it, as a line of JSON:
`{"do": "send", "text": ..., "context_id": ..., ...}`, of which the result is a list of the events.
"""

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import httpx
from a2a.client import A2ACardResolver, Client, ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError
from a2a.types import (
    AgentCard,
    DataPart,
    FilePart,
    FileWithBytes,
    Message,
    MessageSendConfiguration,
    Part,
    PushNotificationConfig,
    Role,
    TaskIdParams,
    TaskQueryParams,
    TextPart,
)
from strands.agent.a2a_agent import A2AAgent


def dumped(event: Any) -> Any:
    """Return an event as JSON."""
    if isinstance(event, tuple):
        return [None if each is None else dumped(each) for each in event]
    return event.model_dump(mode="json", exclude_none=True)


def message(said: dict[str, Any]) -> Message:
    """Return the message of a request."""
    parts = [Part(root=TextPart(text=said["text"]))] if "text" in said else []
    if "data" in said:
        parts.append(Part(root=DataPart(data=said["data"])))
    if "file" in said:
        parts.append(Part(root=FilePart(file=FileWithBytes(**said["file"]))))
    return Message(
        role=Role.user,
        parts=parts,
        message_id=said["message_id"],
        context_id=said.get("context_id"),
        task_id=said.get("task_id"),
        metadata=said.get("metadata"),
    )


async def answered(said: dict[str, Any], url: str, http: httpx.AsyncClient, card: AgentCard, headers: Any) -> Any:
    """Do what a request says."""

    def client(**config: Any) -> Client:
        return ClientFactory(ClientConfig(httpx_client=http, **config)).create(card)

    match said["do"]:
        case "card":
            return dumped(card)
        case "extended":
            return dumped(await client().get_card())
        case "send" | "stream" as do:
            pushed = said.get("push")
            configuration = MessageSendConfiguration(
                blocking=not said.get("at_once", False),
                history_length=said.get("history_length"),
                push_notification_config=None if pushed is None else PushNotificationConfig(**pushed),
            )
            events = client(streaming=do == "stream").send_message(message(said), configuration=configuration)
            return await taken(events, said)
        case "again":
            return await taken(client(streaming=True).resubscribe(TaskIdParams(id=said["task_id"])), said)
        case "get":
            return dumped(await client().get_task(TaskQueryParams(id=said["task_id"])))
        case "cancel":
            return dumped(await client().cancel_task(TaskIdParams(id=said["task_id"])))
        case "strands":
            config = ClientConfig(httpx_client=http, streaming=True)
            agent = A2AAgent(f"{url}/a2a", client_config=config)
            result = await agent.invoke_async(said["text"])
            return {"text": str(result), "stop_reason": result.stop_reason, "name": agent.name}
    raise ValueError(said["do"])


async def taken(events: Any, said: dict[str, Any]) -> list[Any]:
    """Return the events of a stream, at most so many as a request says."""
    found: list[Any] = []
    async for each in events:
        found.append(dumped(each))
        if len(found) == said.get("most"):
            break
    return found


async def main(url: str, key: str | None) -> None:
    """Answer each request."""
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with httpx.AsyncClient(timeout=60, headers=headers) as http:
        card = await A2ACardResolver(http, url).get_agent_card()
        read: Callable[[], str] = sys.stdin.readline
        while line := await asyncio.to_thread(read):
            said = json.loads(line)
            try:
                result = {"result": await answered(said, url, http, card, headers)}
            except A2AClientError as error:
                inner = getattr(error, "error", None)
                result = {"error": str(error), "code": getattr(inner, "code", None)}
            print(json.dumps(result), flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
