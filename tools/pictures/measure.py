"""Measure a queue under load: real requests to a real server, and when each came, began and ended.

    python -m tools.pictures.measure

writes `queue.json`. The agent's model takes a moment that depends on the question, as models do.
"""

import asyncio
import json
import sys
import tempfile
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx

from tools.pictures.queue import MEASURED

AGENT: Final = """
import asyncio
from strands import Agent
from strandline.testing import ScriptedModel, question

async def script(messages):
    asked = question(messages)
    await asyncio.sleep(float(asked.split()[-1]))
    return f"You asked: {asked}"

def make_agent(session_id: str) -> Agent:
    return Agent(model=ScriptedModel(script))
"""
QUESTIONS: Final = {
    "ada": (0.5, 0.3, 0.6, 0.4, 0.3),
    "ben": (0.9, 0.4, 0.7),
    "eve": (0.2, 0.3, 0.2, 0.4),
}
"""For each session, how long its questions take, in seconds."""


async def measure() -> list[dict[str, Any]]:
    """Serve the agent, ask everything at once, and return when each run came, began and ended, in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "agent.py").write_text(AGENT)
        command = Path(sys.executable).with_name("strandline")
        server = await asyncio.create_subprocess_exec(
            command, "serve", "agent.py", "--port", "0", cwd=folder, stderr=asyncio.subprocess.PIPE
        )
        try:
            assert server.stderr is not None
            line = ""
            while " at http://" not in line:
                line = (await asyncio.wait_for(server.stderr.readline(), 30)).decode()
                assert line, "the server ended"
            async with httpx.AsyncClient(base_url=line.split()[-1], timeout=60, trust_env=False) as client:
                return await _ask_all(client)
        finally:
            server.terminate()
            await server.wait()


async def _ask_all(client: httpx.AsyncClient) -> list[dict[str, Any]]:
    for session in QUESTIONS:  # so that every agent is built
        await client.post("/chat", json={"message": "hello 0", "session_id": session})

    async def ask(session: str, number: int, takes_s: float) -> Mapping[str, Any]:
        body = {"message": f"question {number} takes {takes_s}", "session_id": session}
        answer = (await client.post("/chat", json=body)).raise_for_status().json()
        run: Mapping[str, Any] = (await client.get(f"/v1/runs/{answer['run_id']}")).raise_for_status().json()
        return run

    runs = await asyncio.gather(
        *(ask(session, n, s) for session, times in QUESTIONS.items() for n, s in enumerate(times, 1))
    )
    start = min(_seconds(run["created_at"]) for run in runs)
    return [
        {
            "session": run["session_id"],
            "came_s": round(_seconds(run["created_at"]) - start, 3),
            "began_s": round(_seconds(run["started_at"]) - start, 3),
            "ended_s": round(_seconds(run["ended_at"]) - start, 3),
        }
        for run in sorted(runs, key=lambda run: (list(QUESTIONS).index(run["session_id"]), run["started_at"]))
    ]


def _seconds(when: str) -> float:
    return datetime.fromisoformat(when).timestamp()


if __name__ == "__main__":
    measured = asyncio.run(measure())
    MEASURED.write_text("[\n" + ",\n".join(f"  {json.dumps(run)}" for run in measured) + "\n]\n")
