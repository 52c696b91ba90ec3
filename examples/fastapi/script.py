"""Stands in for a model, so that the example runs without a key: it understands two kinds of sentences."""

import re

from strands.types.content import Messages

from strandline.testing import Answer, ScriptedModel, call, question, results


def script(messages: Messages) -> Answer:
    """Answer `where is NUMBER?` and `pack NUMBER`; count whatever else is said."""
    if tool_results := results(messages):
        return f"Your order is {' and '.join(tool_results.values())}."
    prompt = question(messages)
    if found := re.match(r"(where is|pack) (\d+)", prompt):
        return [call("pack" if found[1] == "pack" else "order_status", {"number": int(found[2])})]
    earlier = sum("text" in block for each in messages if each["role"] == "user" for block in each["content"])
    return f"This is question {earlier} of this conversation."


model = ScriptedModel(script)
