"""A function that says in which process it works; on `grip` it keeps Python's lock there for a minute, for good."""

import ctypes
import os

from acceptance.checkpoints import pass_step


async def answer(message: str, session: object) -> str:
    """Answer with the number of the process."""
    if message == "grip":
        pass_step("grips")
        ctypes.PyDLL(None).sleep(60)
    return str(os.getpid())
