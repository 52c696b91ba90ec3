"""How clients answer what an agent asks: once, twice, two at once, or to a question that nobody has asked."""

import asyncio
from typing import Any, Final

from soak.desk import Desk
from soak.plan import Reply, Say
from soak.talk import Talk
from soak.wire import Broken, Silent, ask

UNKNOWN_REQUEST: Final = "nobody-asked-this"


class Answers:
    """Answers for all clients."""

    def __init__(self, desk: Desk, talk: Talk) -> None:
        self._desk = desk
        self._talk = talk

    async def open(self, say: Say, received: Any) -> tuple[str, ...]:
        """Return the ids of what the agent asks because of a message: `received` by its client, or read."""
        if received is not None:
            return tuple(each["id"] for each in received.get("input_requests", ()))
        server = await self._desk.relay.ready()
        try:
            reply = await ask(server.port, "GET", f"/v1/sessions/{say.session}")
        except (Broken, Silent) as error:
            self._desk.blame(server, error)
            return ()
        if reply.status_code != 200:
            return ()
        requests = reply.body["input_requests"]
        own = all(each["name"].startswith(f"{say.label}.") for each in requests)
        return tuple(each["id"] for each in requests) if own else ()

    async def give(self, say: Say, reply: Reply, requests: tuple[str, ...]) -> Any:
        """Answer as it is planned; return what the client received for the first answer, None if it knows nothing."""
        await asyncio.sleep(reply.after_ms / 1000)
        first, second = (self._saying(say, reply, label) for label in reply.labels)
        match reply.how:
            case "never":
                return {}
            case "unknown":
                await self._talk.say(second, thread=say.label, requests=(UNKNOWN_REQUEST,))
                return await self._talk.say(first, thread=say.label, requests=requests)
            case "both":
                answers = (self._talk.say(each, thread=say.label, requests=requests) for each in (first, second))
                one, other = await asyncio.gather(*answers)
                return one if one is not None and "run_id" in one else other
            case "twice":
                received = await self._talk.say(first, thread=say.label, requests=requests)
                await self._talk.say(second, thread=say.label, requests=requests)
                return received
            case _:
                return await self._talk.say(first, thread=say.label, requests=requests)

    @staticmethod
    def _saying(say: Say, reply: Reply, label: str) -> Say:
        return Say(
            label=label,
            text="",
            session=say.session,
            pause_ms=0,
            leave_ms=reply.leave_ms,
            timeout_s=reply.timeout_s,
            keyed=reply.keyed,
        )
