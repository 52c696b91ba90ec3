"""A receiver of webhooks, as each server reaches it: now and then it refuses an event, or its answer is lost."""

import asyncio
import hashlib
import json
from typing import Any

from simulation.loop import Chance
from simulation.process import Process
from strandline._engine.webhooks.port import SendResult, ToSend
from strandline._model import Principal


class Hooks:
    """Sends the events of one server, and writes down what was received."""

    def __init__(self, process: Process, chance: Chance) -> None:
        self._process = process
        self._chance = chance

    def can_sign(self, principal: Principal) -> bool:
        """Return whether there is a secret of a principal."""
        return True

    async def send(self, event: ToSend) -> SendResult:
        """Send an event once; return whether it was received."""
        process, chance = self._process, self._chance
        how = chance.choice(("answers", "answers", "answers", "refuses", "forgets"))
        await asyncio.sleep(chance.random() ** 3 * 2)
        if process.alive and how != "refuses":
            body: dict[str, Any] = json.loads(event.payload)
            run: dict[str, Any] = body["data"]
            error: dict[str, str] = run.get("error") or {}
            process.note(
                "hooked",
                run["run_id"],
                id=event.id,
                type=body["type"],
                principal=event.principal,
                session=run["session_id"],
                content=hashlib.sha256(event.payload).hexdigest(),
                status=run["status"],
                code=error.get("code", ""),
                output=run.get("output", ""),
            )
        await asyncio.sleep(chance.random() ** 3)
        return SendResult(received=how == "answers", detail=how)

    def start(self) -> None:
        """Begin to work."""

    def close(self) -> None:
        """End."""
