"""The message that a run begins with: who said it, and how its agent reads it."""

from pathlib import Path
from typing import Any

import pytest

from strandline._config import resolve
from strandline._history import as_read, prompt_message, sender_of, with_sender
from strandline._model import ANONYMOUS, Message, Principal, Sender, responses
from strandline.errors import SettingsError

ADA = Sender("U1", "Ada")
KEY = Principal("bot")


def message(role: Any = "user", **more: Any) -> Message:
    made: Message = {"role": role, "content": [{"text": "hi"}], **more}  # type: ignore[typeddict-item]
    return made


def test_a_message_keeps_its_sender_beside_whatever_metadata_it_has() -> None:
    plain = message(metadata={"usage": 1, "custom": {"pinned": True}})
    named = with_sender(plain, ADA)
    assert named["metadata"] == {"usage": 1, "custom": {"pinned": True, "sender": {"id": "U1", "name": "Ada"}}}
    assert plain == message(metadata={"usage": 1, "custom": {"pinned": True}}), "the argument is not changed"
    assert with_sender(plain, None) is plain
    assert (sender_of(named, KEY), sender_of(named, ANONYMOUS)) == (ADA, ADA)
    assert sender_of(prompt_message([{"text": "hi"}], ADA), KEY) == ADA


def test_who_said_a_message_without_a_sender_follows_from_the_key_of_its_session() -> None:
    assert sender_of(message(), KEY) == Sender("bot", "bot")
    assert sender_of(message(), ANONYMOUS) is None
    assert sender_of(message("assistant"), KEY) is None
    results = message(content=[{"toolResult": {"toolUseId": "t", "content": []}}])
    assert sender_of(results, KEY) is None, "no person said what a tool returned"
    assert sender_of(with_sender(results, ADA), KEY) == ADA, "but somebody answered its question"


@pytest.mark.parametrize(
    "metadata", [None, 5, {}, {"custom": 5}, {"custom": {"sender": 5}}, {"custom": {"sender": {}}}]
)
def test_metadata_of_any_form_names_nobody(metadata: object) -> None:
    assert sender_of(message(metadata=metadata), ANONYMOUS) is None


def test_an_agent_reads_who_said_it_where_a_template_says_how() -> None:
    template = "[{id}] {name}: {text}!"
    assert as_read("hi", ADA, template) == "[U1] Ada: hi!"
    assert as_read(" ", ADA, template) == "[U1] Ada: (empty message)!"
    image: dict[str, Any] = {"image": {"format": "png", "source": {"bytes": b"x"}}}
    assert as_read([image, {"text": "a"}, {"text": "b"}], ADA, template) == [
        image,
        {"text": "[U1] Ada: a!"},
        {"text": "b"},
    ]
    assert as_read([image], ADA, template) == [{"text": "[U1] Ada: !"}, image]
    for sender, how in ((None, template), (ADA, None)):
        assert as_read("hi", sender, how) == "hi"
    answer = responses({"i": "yes"})
    assert as_read(answer, ADA, template) is answer


def test_nothing_that_a_caller_wrote_is_filled_in_again() -> None:
    sly = Sender("{text}", "{id}{name.__class__}")
    assert as_read("{name} {0} {id!r}", sly, "{id}/{name}: {text}") == "{text}/{id}{name.__class__}: {name} {0} {id!r}"


@pytest.mark.parametrize("template", ["{name}: {text}", "{text} ({id})", "From {name} <{id}>\n{text}"])
def test_a_template_has_the_text_and_who_said_it(template: str, tmp_path: Path) -> None:
    found = resolve({}, {"STRANDLINE_SENDER_TEMPLATE": template}, folder=tmp_path)
    assert found.settings.sender_template == template


@pytest.mark.parametrize(
    "template", ["", "{text}", "{name}", "{name} {text} {text}", "{name.x} {text}", "{name}: {{text}}"]
)
def test_any_other_template_is_refused(template: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"sender_template is .* must be `\{name\}: \{text\}`"):
        resolve({"sender_template": template}, {}, folder=tmp_path)
