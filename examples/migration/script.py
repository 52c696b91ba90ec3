"""Stands in for a model, so that the example runs without a key. For `fail` it breaks, as a provider may."""

from strands.types.content import Messages

from strandline.testing import Answer, ScriptedModel, call, question, results


def script(messages: Messages) -> Answer:
    """Answer `lend TITLE` and `what do I have?`; answer anything else with the number of questions."""
    if tool_results := results(messages):
        return " ".join(tool_results.values())
    prompt = question(messages)
    if prompt == "fail":
        raise ConnectionError("the provider is out of order")
    if prompt.startswith("lend "):
        return [call("lend", {"title": prompt.removeprefix("lend ")})]
    if prompt.startswith("what do I have"):
        return [call("lent")]
    count = sum(message["role"] == "user" and "text" in message["content"][0] for message in messages)
    return f"This was question {count} of our conversation."


model = ScriptedModel(script)
