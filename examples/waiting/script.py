"""A model for the example, so that it needs no key: it knows one sentence. A real one takes any that means the same."""

import json
import re

from strands.types.content import Messages

from strandline.testing import Answer, ScriptedModel, call, question, results

_PACK = re.compile(r"pack (\d+) boxes", re.IGNORECASE)


def answer(messages: Messages) -> Answer:
    """Pack what the question says, a box in each round; when somebody waits, read what they say, and stop."""
    asked = _PACK.match(question(messages))
    if asked is None:
        return f"I am free now. You said: {question(messages)}"
    returned = " ".join(results(messages).values())
    if returned.startswith("{"):
        said = [
            f"{(each['sender'] or {}).get('name', 'Somebody')}: {each['text']}"
            for each in json.loads(returned)["messages"]
        ]
        return f"I stopped packing after {_packed(messages)} of {asked[1]} boxes. {'; '.join(said)}"
    if "packed" in returned and ". 0 wait" not in returned:
        return [call("waiting_messages")]
    if _packed(messages) < int(asked[1]):
        return [call("pack")]
    return f"All {asked[1]} boxes are packed."


def _packed(messages: Messages) -> int:
    """Return how many boxes were packed since the last question."""
    texts = [" ".join(block.get("text", "") for block in message["content"]) for message in messages]
    last = max(at for at, text in enumerate(texts) if _PACK.match(text))
    return sum("One box is packed" in json.dumps(message) for message in messages[last:])


model = ScriptedModel(answer)
