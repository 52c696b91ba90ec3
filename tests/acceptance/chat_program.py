"""A chat program with one chat: it keeps its own copy, lets people change that, and sends all of it each time."""

from typing import Any

from openai import OpenAI
from openai.types.chat import ChatCompletion, ChatCompletionChunk


class ChatProgram:
    """Sends what programs such as Open WebUI send, with OpenAI's own client.

    A person can send a message, edit one, have another answer, and go on from another version. `how` is the header
    `X-Client-History`, None: without it.
    """

    def __init__(self, client: OpenAI, session_id: str, how: str | None = "follow") -> None:
        self._client = client
        self._session_id = session_id
        self._how = how
        self.messages: list[dict[str, Any]] = []
        """The version that is shown."""

    @property
    def users(self) -> list[str]:
        """What the person has said, as shown."""
        return [each["content"] for each in self.messages if each["role"] == "user"]

    def send(self, text: str, *, last: int | None = None, **more: Any) -> ChatCompletion:
        """Send a message; with `last` only so many messages of the conversation go before it."""
        before = self.messages if last is None else self.messages[len(self.messages) - last :]
        self.messages = [*self.messages, {"role": "user", "content": text}]
        answer = self.complete([*before, self.messages[-1]], **more)
        self.messages = [*self.messages, {"role": "assistant", "content": answer.choices[0].message.content}]
        return answer

    def edit(self, number: int, text: str, **more: Any) -> ChatCompletion:
        """Replace message `number` of the person, from 0, and send it: what came later is gone from the chat."""
        self.messages = self.messages[: self._place(number)]
        return self.send(text, **more)

    def regenerate(self, **more: Any) -> ChatCompletion:
        """Have another answer to the last message."""
        *self.messages, asked, _ = self.messages
        return self.send(asked["content"], **more)

    def complete(self, messages: list[dict[str, Any]], **more: Any) -> ChatCompletion:
        """Send these messages, and nothing else of the chat."""
        headers = {"X-Session-Id": self._session_id, **({} if self._how is None else {"X-Client-History": self._how})}
        sent: Any = messages
        headers |= more.pop("headers", {})
        return self._client.chat.completions.create(
            model="agent", messages=sent, extra_headers=headers, extra_body=more
        )

    def _place(self, number: int) -> int:
        return [index for index, each in enumerate(self.messages) if each["role"] == "user"][number]


def told(answer: ChatCompletion | ChatCompletionChunk) -> dict[str, Any]:
    """Return the fields of an answer that OpenAI's has not."""
    extra = answer.model_extra
    assert extra is not None
    fields: dict[str, Any] = extra["strandline"]
    return fields
