"""Stands in for a model, so that the example runs without a key: it understands two kinds of sentences."""

from strands.types.content import Messages

from strandline.testing import Answer, ScriptedModel, call, question, results


def script(messages: Messages) -> Answer:
    """Answer `how many THING?` and `keep COUNT THING`."""
    if tool_results := results(messages):
        return " ".join(tool_results.values())
    match question(messages).rstrip("?").split():
        case ["how", "many", thing]:
            return [call("stock", {"thing": thing})]
        case ["keep", count, thing] if count.isdecimal():
            return [call("reserve", {"thing": thing, "count": int(count)})]
    return "Ask `how many THING?`, or tell me to `keep COUNT THING`."


model = ScriptedModel(script)
