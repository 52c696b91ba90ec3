"""Stands in for a model (`AGENT_MODEL=scripted`): it does `run: COMMAND` in the shell, and counts all else."""

from strands.types.content import Messages

from strandline.testing import Answer, ScriptedModel, call, question, results


def script(messages: Messages) -> Answer:
    """Answer a question."""
    prompt = question(messages)
    if done := results(messages):
        return f"It says: {[*done.values()][-1]}"
    if prompt.startswith("run: "):
        return [call("shell", {"command": prompt.removeprefix("run: ")})]
    if prompt == "fail":
        raise ConnectionError("the provider is out of order")
    return f"Question {sum('text' in each['content'][0] and each['role'] == 'user' for each in messages)}: {prompt}"


model = ScriptedModel(script)
