"""Stands in for a model, so that the example runs without a key: it understands one kind of sentence."""

import re

from strands.types.content import Messages

from strandline.testing import Answer, ScriptedModel, call, question, results, say


def script(messages: Messages) -> Answer:
    """Answer `where is NUMBER?`; say back whatever else is said."""
    if tool_results := results(messages):
        return f"Your order is {' and '.join(tool_results.values())}."
    if found := re.match(r"where is (\d+)", question(messages)):
        return [say("Let me look. "), call("order_status", {"number": int(found[1])})]
    return f"You said: {question(messages)}"


model = ScriptedModel(script)
