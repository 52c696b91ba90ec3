"""How clients say something at `/chat`, and what they write down about it."""

import asyncio
import time
from typing import Any, Final

from soak.desk import POLL_S, Desk
from soak.plan import DELETED, Say
from soak.records import Answered, SentRequest, ended_of_chat
from soak.server import Server
from soak.wire import Broken, Reply, Silent, ask

MAY_REFUSE: Final = {409: {"already_answered", "dismissed"}, 404: {"not_found"}}
"""How an answer to an input request may be refused, by status code."""


class Talk:
    """Says things, for all clients."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._records = desk.records
        self._ends: dict[str, str] = {}

    def ended_as(self, label: str) -> str | None:
        """Return how the run of a message ended, as its client received it; None if it knows nothing for sure."""
        return None if label in self._records.unsure else self._ends.get(label)

    async def say(self, say: Say, *, thread: str = "", requests: tuple[str, ...] = ()) -> Any:
        """Send a message, or the answers to `requests`; return the body of the answer, None if there is none."""
        server = await self._desk.relay.ready()
        self.sends(say, thread=thread, requests=requests)
        body = body_of(say, requests)
        try:
            async with asyncio.timeout(None if say.leave_ms is None else say.leave_ms / 1000):
                while (reply := await self._send(server, say, body)) is None and say.keyed:
                    server = await self._desk.relay.ready()
                return None if reply is None else reply.body
        except TimeoutError:
            self._records.unsure.add(say.label)  # it has hung up
            self._records.left_at[say.label] = time.time()
            return None

    def sends(self, say: Say, *, thread: str = "", requests: tuple[str, ...] = ()) -> None:
        """Note that a message is sent, before it is."""
        self._records.requests[say.label] = SentRequest(
            name=say.label,
            session=say.session,
            text=say.text,
            sent=time.monotonic_ns(),
            timeout_s=say.timeout_s,
            queue_timeout_s=say.queue_timeout_s,
            key=say.label if say.keyed else None,
            if_busy=say.if_busy,
            priority=3 if say.priority is None else say.priority,
            on_disconnect=say.on_disconnect,
            thread=thread,
            answers=requests,
        )
        self._desk.sessions[say.session] = None

    async def _send(self, server: Server, say: Say, body: dict[str, Any]) -> Reply | None:
        """Send a message; return the answer if it finishes it."""
        headers = f"Idempotency-Key: {say.label}\r\n" if say.keyed else ""
        try:
            reply = await ask(server.port, "POST", "/chat", body, headers=headers, deadline_s=self._desk.answer_s)
        except (Broken, Silent) as error:
            self._records.unsure.add(say.label)
            self._desk.blame(server, error)
            await asyncio.sleep(POLL_S)
            return None
        self.answered(say.label, reply)
        if reply.status_code == 503:
            await asyncio.sleep(POLL_S)
            return None
        return reply

    def answered(self, label: str, reply: Reply) -> None:
        """Note the answer to a message."""
        at_ns = time.monotonic_ns()
        body = reply.body if isinstance(reply.body, dict) else {}
        run_id, code = body.get("run_id", ""), body.get("code", "")
        self._records.answered.append(
            Answered(label=label, status_code=reply.status_code, at_ns=at_ns, run_id=run_id, code=code)
        )
        request = self._records.requests[label]
        match reply.status_code:
            case 200:
                ended = ended_of_chat(body)
                self._records.reported[run_id].add(ended)
                self._ends[label] = ended.kind
            case 202 | 503:
                pass
            case 409 if request.if_busy == "reject":
                pass
            case 404 if request.session.startswith(DELETED) and code == "not_found":
                pass  # deleted while its client waited, or came again for its answer
            case status_code if request.thread and code in MAY_REFUSE.get(status_code, ()):
                pass
            case _:
                self._records.faults.append(f"{label} was answered {reply.status_code}: {reply.body}")
        if run_id:
            self._desk.runs[run_id] = None


def body_of(say: Say, requests: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the body of the request for `/chat`."""
    body: dict[str, Any] = {"session_id": say.session, "metadata": {"label": say.label}}
    if requests:
        body["responses"] = [{"id": each, "response": say.label} for each in requests]
    else:
        body["message"] = say.text
    body |= {} if say.timeout_s is None else {"timeout": say.timeout_s}
    body |= {} if say.queue_timeout_s is None else {"queue_timeout": say.queue_timeout_s}
    body |= {} if say.if_busy == "enqueue" else {"if_busy": say.if_busy}
    body |= {} if say.on_disconnect == "continue" else {"on_disconnect": say.on_disconnect}
    return body | ({} if say.priority is None else {"priority": say.priority})
