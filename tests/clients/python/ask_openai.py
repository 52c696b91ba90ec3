"""OpenAI's own client: `python ask_openai.py BASE_URL` answers each line of JSON that it reads.

A request is `{session_id, text, form: "whole" | "stream"}`, what came of it `{text}`, or `{status, error}`.
"""

import json
import sys
from typing import Any

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none")


class Failed(Exception):
    """A response without an answer."""


def ask(session_id: str, text: str, form: str, through: str, **_: Any) -> str:
    """Ask once, and return the answer."""
    if through == "responses":
        return respond(session_id, text, form)
    messages: list[openai.types.chat.ChatCompletionMessageParam] = [{"role": "user", "content": text}]
    headers = {"X-Session-Id": session_id}
    if form == "stream":
        pieces = client.chat.completions.create(model="any", messages=messages, extra_headers=headers, stream=True)
        return "".join(each.delta.content or "" for piece in pieces for each in piece.choices)
    return (
        client.chat.completions.create(model="any", messages=messages, extra_headers=headers).choices[0].message.content
        or ""
    )


def respond(session_id: str, text: str, form: str) -> str:
    """Ask for a response, and return its text."""
    if form == "whole":
        whole = client.responses.create(model="any", input=text, conversation=session_id)
        if whole.error is not None:
            raise Failed(whole.error.message)
        return whole.output_text
    content = ""
    with client.responses.stream(model="any", input=text, conversation=session_id) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                content += event.delta
            if event.type == "response.failed" and event.response.error is not None:
                raise Failed(event.response.error.message)
    return content


for line in sys.stdin:
    said: dict[str, Any]
    try:
        said = {"text": ask(**json.loads(line))}
    except (openai.APIError, Failed) as error:
        said = {"status": getattr(error, "status_code", None), "error": str(error)}
    print(json.dumps(said), flush=True)
