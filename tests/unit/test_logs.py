"""What a server's log keeps to itself."""

import subprocess
import sys

import pytest

STOPPED_IN_ITS_MIDDLE = """
import asyncio, gc
from strands import Agent
from strandline.logs import log_to_stderr
from strandline.testing import ScriptedModel

async def script(messages):
    return "hello"

async def main():
    stream = Agent(model=ScriptedModel(script), callback_handler=None).stream_async("hello")
    async for event in stream:
        if "event" in event:
            break
    await stream.aclose()
    gc.collect()  # closes what Strands has left open, each in a task of its own
    while others := asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait(others)

log_to_stderr(verbose=VERBOSE)
asyncio.run(main())
"""


@pytest.mark.parametrize("verbose", [False, True])
def test_a_run_that_was_stopped_in_its_middle_logs_no_traceback_of_others(verbose: bool) -> None:
    script = STOPPED_IN_ITS_MIDDLE.replace("VERBOSE", str(verbose))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ("Failed to detach context" in done.stderr) == verbose, done.stderr
