"""Stands in for a model, so that the example runs without a key: it understands three kinds of sentences."""

from strands.types.content import Messages

from strandline.testing import Answer, ScriptedModel, call, question, results


def script(messages: Messages) -> Answer:
    """Answer `note TITLE: TEXT`, `what about TITLE?` and `what do you have?`."""
    if tool_results := results(messages):
        return " ".join(tool_results.values())
    prompt = question(messages)
    if prompt.startswith("note ") and ":" in prompt:
        title, _, text = prompt.removeprefix("note ").partition(":")
        return [call("write_note", {"title": title, "text": text.strip()})]
    if prompt.startswith("what about "):
        return [call("read_note", {"title": prompt.removeprefix("what about ")})]
    if prompt.startswith("what do you have"):
        return [call("list_notes")]
    return "Tell me `note TITLE: TEXT`, or ask `what about TITLE?` or `what do you have?`"


model = ScriptedModel(script)
