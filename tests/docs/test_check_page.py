"""`docs/check.md`: its file for another framework."""

import asyncio
from typing import Any

from docs.pages import block


def test_the_probe_answers_for_another_framework() -> None:
    names: dict[str, Any] = {}
    exec(block("check.md", "python", "other.py"), names)
    question = 'probe {"session": "s", "label": "one"}'
    reply = asyncio.run(names["reply"]([{"role": "user", "content": question}]))
    assert '"probe": "one"' in reply
    assert '"sound": true' in reply
