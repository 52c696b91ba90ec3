"""The client of `a2a-sdk` 1, which speaks version 1.0, or 0.3 if it is told to.

`python ask_a2a.py URL [KEY]` reads one request per line, as JSON, and writes what came of it, as a line of JSON:
`{"do": "send", "text": ..., "context_id": ..., ...}`, of which the result is a list of the events.
"""

import asyncio
import base64
import json
import sys
from collections.abc import Callable
from typing import Any

import httpx
from a2a.client import A2ACardResolver, Client, ClientConfig, ClientFactory
from a2a.client.errors import A2AClientError
from a2a.types import (
    AgentCard,
    CancelTaskRequest,
    GetExtendedAgentCardRequest,
    GetTaskRequest,
    ListTasksRequest,
    Message,
    Part,
    Role,
    SendMessageConfiguration,
    SendMessageRequest,
    SubscribeToTaskRequest,
    TaskPushNotificationConfig,
)
from a2a.utils.errors import A2AError
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.struct_pb2 import Value


def message(said: dict[str, Any]) -> Message:
    """Return the message of a request."""
    parts = [Part(text=said["text"])] if "text" in said else []
    if "data" in said:
        parts.append(Part(data=ParseDict(said["data"], Value())))
    if "file" in said:
        file = said["file"]
        parts.append(Part(raw=base64.b64decode(file["bytes"]), media_type=file["mime_type"], filename=file["name"]))
    return Message(
        role=Role.ROLE_USER,
        parts=parts,
        message_id=said["message_id"],
        context_id=said.get("context_id"),
        task_id=said.get("task_id"),
        metadata=said.get("metadata"),
    )


async def answered(said: dict[str, Any], http: httpx.AsyncClient, card: AgentCard) -> Any:
    """Do what a request says."""

    def client(**config: Any) -> Client:
        return ClientFactory(ClientConfig(httpx_client=http, **config)).create(card)

    match said["do"]:
        case "card":
            return MessageToDict(card)
        case "extended":
            return MessageToDict(await client().get_extended_agent_card(GetExtendedAgentCardRequest()))
        case "send" | "stream" as do:
            configuration = SendMessageConfiguration(return_immediately=said.get("at_once", False))
            if said.get("history_length") is not None:
                configuration.history_length = said["history_length"]
            if (pushed := said.get("push")) is not None:
                configuration.task_push_notification_config.CopyFrom(TaskPushNotificationConfig(**pushed))
            request = SendMessageRequest(message=message(said), configuration=configuration)
            return await taken(client(streaming=do == "stream").send_message(request), said)
        case "again":
            return await taken(client().subscribe(SubscribeToTaskRequest(id=said["task_id"])), said)
        case "get":
            return MessageToDict(await client().get_task(GetTaskRequest(id=said["task_id"])))
        case "cancel":
            return MessageToDict(await client().cancel_task(CancelTaskRequest(id=said["task_id"])))
        case "list":
            return MessageToDict(await client().list_tasks(ParseDict(said["of"], ListTasksRequest())))
    raise ValueError(said["do"])


async def taken(events: Any, said: dict[str, Any]) -> list[Any]:
    """Return the events of a stream, at most so many as a request says."""
    found: list[Any] = []
    async for each in events:
        found.append(MessageToDict(each))
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
                result = {"result": await answered(said, http, card)}
            except (A2AError, A2AClientError) as error:
                result = {"error": str(error), "code": type(error).__name__}
            print(json.dumps(result), flush=True)


asyncio.run(main(sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None))
