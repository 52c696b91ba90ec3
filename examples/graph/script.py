"""Stands in for a model, so that the example runs without a key: what it says shows which agent has asked it."""

import re

from strands.types.content import Messages

from strandline.testing import ScriptedModel, question


def script(messages: Messages) -> str:
    """Plan, write or shorten, as the nodes before this one are named in what it is given."""
    given = question(messages)
    found = re.search(r"Original Task: (.*?)(?:\n|$)", given)
    about = found[1] if found else given
    text = f"A text about {about}"
    if "From write:" in given:
        return f"In short: {text[:40]} ..."
    if "From plan:" in given:
        return text
    return f"First {about}, then the rest."


model = ScriptedModel(script)
