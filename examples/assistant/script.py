"""Stands in for a model, so that the example runs without a key: it understands three kinds of sentences."""

from strands.types.content import Messages

from strandline.testing import ScriptedModel, call, question, results
from strandline.testing._model import Answer


def script(messages: Messages) -> Answer:
    """Answer `note TITLE: TEXT`, `what about TITLE?` and `what do you have?`."""
    if told := results(messages):
        return " ".join(told.values())
    asked = question(messages)
    if asked.startswith("note ") and ":" in asked:
        title, _, text = asked.removeprefix("note ").partition(":")
        return [call("write_note", {"title": title, "text": text.strip()})]
    if asked.startswith("what about "):
        return [call("read_note", {"title": asked.removeprefix("what about ")})]
    if asked.startswith("what do you have"):
        return [call("list_notes")]
    return "Tell me `note TITLE: TEXT`, or ask `what about TITLE?` or `what do you have?`"


model = ScriptedModel(script)
