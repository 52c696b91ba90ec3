"""`load_model`: each provider by name, through its real client where there is one; what is missing is named."""

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from strands import Agent, tool

from fakes.provider import Provider
from strandline import _providers as providers
from strandline._providers import EXAMPLES, lacks, load_model, parse
from strandline._scripted.conversation import arguments, reply
from strandline.errors import ModelError, SettingsError


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No credentials from anywhere, whatever this machine has."""
    import os

    for name in list(os.environ):
        if name.startswith(("AWS_", "OPENAI_", "OLLAMA_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(providers, "_EC2", tmp_path / "no_vendor")
    monkeypatch.setenv("STRANDLINE_DEMO_PACE", "0")


@tool
def add(a: int, b: int) -> int:
    """Add."""
    return a + b


@tool
def get_weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def ask(spec: str, *questions: str) -> list[str]:
    agent = Agent(model=load_model(spec), tools=[add, get_weather], callback_handler=None)
    return [str(agent(question)).strip() for question in questions]


# -- the providers ------------------------------------------------------------------------------------


def test_openai_through_its_own_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """The address, the key and the model's name arrive as they were given."""
    with Provider("Hello.") as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-mine")
        assert ask("openai:small-one", "hi") == ["Hello."]
        (required,) = provider.requests
    assert required.body["model"] == "small-one"
    assert required.headers["authorization"] == "Bearer sk-mine"


def test_a_server_of_ones_own_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    with Provider("Hello.") as provider:
        monkeypatch.setenv("OPENAI_BASE_URL", provider.url)
        assert ask("openai:local", "hi") == ["Hello."]


def test_bedrock_is_made_with_the_credentials_that_boto3_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    model: Any = load_model("bedrock:us.amazon.nova-lite-v1:0")
    assert type(model).__name__ == "BedrockModel"
    assert model.get_config()["model_id"] == "us.amazon.nova-lite-v1:0"


def test_bedrock_credentials_are_found_in_every_local_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert "AWS_ACCESS_KEY_ID" in (lacks("bedrock") or "")
    (tmp_path / "machine").write_text("Amazon EC2\n")
    monkeypatch.setattr(providers, "_EC2", tmp_path / "machine")
    assert lacks("bedrock") is None
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert lacks("bedrock") is not None
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "token")
    assert lacks("bedrock") is None
    monkeypatch.delenv("AWS_BEARER_TOKEN_BEDROCK")
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text("[default]\naws_access_key_id = A\naws_secret_access_key = B\n")
    assert lacks("bedrock") is None
    monkeypatch.setenv("AWS_PROFILE", "another")
    assert lacks("bedrock") is not None


def test_ollama_is_called_at_the_address_of_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its package is stood in for by an empty one: only making the model is looked at."""
    stand_in: Any = types.ModuleType("ollama")
    monkeypatch.setitem(sys.modules, "ollama", stand_in)
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:4711")
    model: Any = load_model("ollama:llama3.2")
    assert (model.host, model.get_config()["model_id"]) == ("http://127.0.0.1:4711", "llama3.2")
    monkeypatch.delitem(sys.modules, "strands.models.ollama")


# -- what is missing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "reported"),
    [
        ("opnai:gpt", "did you mean 'openai'"),
        ("gpt-4o", "`openai:gpt-4o-mini`"),
        ("", "names no known provider"),
        ("openai", "Write `openai:NAME`, such as `openai:gpt-4o-mini`"),
        ("bedrock:  ", "Write `bedrock:NAME`"),
        ("scripted:x", "Write `scripted`"),
        ("openai:x", "Set OPENAI_API_KEY"),
        ("bedrock:x", "AWS_PROFILE"),
    ],
)
def test_what_is_missing_is_named(spec: str, reported: str) -> None:
    with pytest.raises(ModelError) as refused:
        load_model(spec)
    assert reported in str(refused.value)


@pytest.mark.parametrize(("provider", "module"), [("openai", "openai"), ("bedrock", "boto3"), ("ollama", "ollama")])
def test_a_missing_package_is_an_error_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, provider: str, module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)  # as if it were not there: importing it raises
    monkeypatch.delitem(sys.modules, f"strands.models.{provider}", raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk")
    with pytest.raises(ModelError) as refused:
        load_model(f"{provider}:x")
    assert f"pip install 'strands-agents[{provider}]'" in str(refused.value)
    assert repr(module) in str(refused.value)


@pytest.mark.parametrize("example", EXAMPLES.values())
def test_every_example_can_be_parsed(example: str) -> None:
    assert parse(example)[0] == example.partition(":")[0]


# -- the scripted one ---------------------------------------------------------------------------------


def test_the_script_repeats_counts_and_calls_what_is_named() -> None:
    hint = "Say the name of a tool and I call it: add, get_weather."
    assert ask("scripted", "hello", "Please add 2 and 40.", "What is the weather in New York?", 'weather: "Rome"') == [
        f"I am a script. You said: hello. That was message 1 of this session. {hint}",
        "add returned 42. That was message 2 of this session.",
        "get_weather returned sunny in New York. That was message 3 of this session.",
        "get_weather returned sunny in Rome. That was message 4 of this session.",
    ]


def test_without_tools_it_speaks_of_none() -> None:
    assert reply([{"role": "user", "content": [{"text": "Hm?"}]}], ()) == (
        "I am a script. You said: Hm? That was message 1 of this session."
    )


def test_arguments_are_made_as_the_schema_wants_them() -> None:
    properties = {
        "unit": {"enum": ["celsius", "fahrenheit"]}, "days": {"type": "integer"}, "height": {"type": "number"},
        "later": {"type": "integer"}, "deep": {"type": "boolean"}, "names": {"type": "array"},
        "more": {"type": "object"}, "note": {"type": "string"}, "left_out": {"type": "string"},
    }  # fmt: skip
    needed = ["unit", "days", "height", "deep", "names", "more", "note"]
    spec = {"name": "t", "inputSchema": {"json": {"properties": properties, "required": needed}}}
    assert arguments(spec, "t in Fahrenheit for 3.7 days, -1.5 high, 'so be it'") == {
        "unit": "fahrenheit", "days": 3, "height": -1.5, "deep": True, "names": [], "more": {}, "note": "so be it"
    }  # fmt: skip


def test_numbers_may_begin_with_zeros() -> None:
    spec = {"name": "t", "inputSchema": {"json": {"properties": {name: {"type": "integer"} for name in "abc"}}}}
    assert arguments(spec, "on 2026-12-03, 007") == {"a": 2026, "b": 12, "c": 3}
    assert arguments(spec, "t 007") == {"a": 7}


def test_a_pace_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRANDLINE_DEMO_PACE", "fast")
    with pytest.raises(SettingsError, match="number of seconds"):
        load_model("scripted")
