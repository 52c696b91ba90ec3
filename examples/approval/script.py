"""A model for the example, so that it needs no key: it knows one sentence. A real one takes any that means the same."""

import re

from strands.types.content import Messages

from strandline.testing import Answer, ScriptedModel, call, question, results

_REFUND = re.compile(r"refund (?P<amount>[\d.]+) for order (?P<order>\w+)", re.IGNORECASE)


def answer(messages: Messages) -> Answer:
    """Call the tool that the question names, then say what came of it."""
    if returned := results(messages):
        return " ".join(returned.values())
    if found := _REFUND.match(question(messages)):
        return [call("refund", {"order": found["order"], "amount": float(found["amount"])})]
    return "Say for example: refund 20 for order A7"


model = ScriptedModel(answer)
