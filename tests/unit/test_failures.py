"""How much of an exception's text is shown: the same in answers, events and history; the log has the rest."""

import contextlib
import json
import logging
from pathlib import Path

import pytest
from strands import Agent
from strands.multiagent import Swarm
from strands.types.content import Messages

from engine_support import texts
from strandline._agents.function import Session
from strandline._agents.load import target_for
from strandline._agents.port import Target
from strandline._config import resolve
from strandline._engine.execution.failures import MOST_LOGGED, full_text
from strandline._engine.options import ErrorText
from strandline._model import ErrorCode, Failed, Raised
from strandline.errors import SettingsError
from strandline.testing import Answer, ScriptedModel, say, stop
from strandline.testing import question as prompts_of
from strandline.testing._checker import check_history
from target_support import ask, history, run, serving

URL = "postgresql://ada:hunter2@db.internal/pay"
EARLY = "(This run ended early: agent_error.)"
SHOWN: dict[ErrorText, str] = {"full": f"ConnectionError: cannot reach {URL}", "class": "ConnectionError", "id": "err_"}


def agent() -> Agent:
    def script(messages: Messages) -> Answer:
        if prompts_of(messages) == "next":
            return "fine"
        if prompts_of(messages) == "long":
            return [say("half an ans"), stop("max_tokens")]
        return [say("let me see"), ConnectionError(f"cannot reach {URL}")]

    return Agent(name="pay", model=ScriptedModel(script), callback_handler=None)


def factory() -> Target:
    return target_for(agent, "agent")


def make_swarm() -> Swarm:
    return Swarm([agent()])


class Leaving(BaseException):
    """What an agent's own code ends its task with."""


async def answer_with_an_agent(message: str, session: Session) -> str:
    """Serve as a function whose own agent is broken off, which the function does not notice."""

    def script(messages: Messages) -> Answer:
        raise Leaving(URL)

    with contextlib.suppress(Leaving):
        await Agent(model=ScriptedModel(script), callback_handler=None).invoke_async(message)
    return "fine"


@pytest.mark.parametrize("error_text", SHOWN)
def test_answer_and_history_show_the_same_of_an_exception_and_the_next_run_works(
    error_text: ErrorText, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with serving(factory(), tmp_path, error_text=error_text) as service:
            end = await ask(service, "pay")
            assert end.error is not None
            assert end.error.code is ErrorCode.AGENT_ERROR
            shown = end.error.detail
            assert shown.startswith(SHOWN[error_text]) if error_text == "id" else shown == SHOWN[error_text]
            messages = await history(service)
            assert texts(messages) == ["pay", "let me see", EARLY, shown]
            assert check_history(messages) == []
            assert ("hunter2" in str(messages)) is (error_text == "full")
            assert (await ask(service, "next")).output == "fine"
            (line,) = [each for each in caplog.records if each.name in ("strandline.runner", "strandline.errors")]
            assert URL in line.getMessage()
            assert (line.name == "strandline.errors") is (error_text == "id")
            assert shown in line.getMessage()

    caplog.set_level(logging.WARNING)
    run(main)


@pytest.mark.parametrize("error_text", SHOWN)
def test_what_an_error_is_is_known_before_its_text_is_taken_out(error_text: ErrorText, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(factory(), tmp_path, error_text=error_text) as service:
            assert (end := (await ask(service, "long")).error) is not None
            assert end.out_of_tokens
            assert (end.detail == "MaxTokensReachedException") is (error_text == "class")
            assert (end := (await ask(service, "pay")).error) is not None
            assert not end.out_of_tokens

    run(main)


@pytest.mark.parametrize(
    ("error_text", "shown"),
    [
        ("full", f"the Swarm failed: node pay: ConnectionError: cannot reach {URL}"),
        ("class", "the Swarm failed: node pay: ConnectionError"),
        ("id", "the Swarm failed: node pay: err_"),
    ],
)
def test_a_failing_node_is_named_and_shows_as_much_as_an_agent(
    error_text: ErrorText, shown: str, tmp_path: Path
) -> None:
    async def main() -> None:
        async with serving(target_for(make_swarm, "swarm"), tmp_path, error_text=error_text) as service:
            assert (end := (await ask(service, "pay")).error) is not None
            assert end.detail.startswith(shown)
            assert texts(await history(service))[-1] == end.detail
            assert ("hunter2" in end.detail) is (error_text == "full")

    run(main)


@pytest.mark.parametrize("error_text", SHOWN)
def test_the_exception_of_an_interrupted_inner_agent_goes_no_further(error_text: ErrorText, tmp_path: Path) -> None:
    async def main() -> None:
        target = target_for(answer_with_an_agent, "function")
        async with serving(target, tmp_path, error_text=error_text) as service:
            end = await ask(service, "pay")
            assert end.error is not None, end
            assert ("hunter2" in end.error.detail) is (error_text == "full")
            assert texts(await history(service))[-1] == end.error.detail

    run(main)


@pytest.mark.parametrize("error_text", SHOWN)
def test_the_servers_own_reason_of_a_failure_is_shown_whole(error_text: ErrorText, tmp_path: Path) -> None:
    async def main() -> None:
        async with serving(factory(), tmp_path, error_text=error_text, timeout_s=1e-9, cancel_grace_s=0) as service:
            assert (end := (await ask(service, "pay")).error) is not None
            assert (end.code, end.detail) == (ErrorCode.TIMEOUT, "the run took longer than 1e-09 s")
            assert texts(await history(service))[-1] == end.detail

    run(main)


def test_a_text_of_an_error_takes_so_much_of_the_log_and_no_more() -> None:
    text = "x" * MOST_LOGGED
    assert full_text(Failed(ErrorCode.AGENT_ERROR, raised=Raised("ValueError", text))) == text
    long = Failed(ErrorCode.AGENT_ERROR, "node pay", Raised("ValueError", f"cannot read {'x' * 9_000_000}"))
    shown = full_text(long)
    assert shown.startswith("node pay: cannot read xxx")
    assert shown.endswith(f"... ({len('node pay: cannot read ') + 9_000_000 - MOST_LOGGED} more characters)")
    assert len(shown) < MOST_LOGGED + 50


def test_without_keys_the_text_is_shown_and_with_keys_an_id_unless_the_setting_differs() -> None:
    key = "ada sha256:" + "0" * 64
    for given, in_force in (
        ({}, "full"),
        ({"api_keys": [key]}, "id"),
        ({"api_keys_file": "keys"}, "id"),
        ({"api_keys": [key], "error_text": "full"}, "full"),
        ({"error_text": "class"}, "class"),
    ):
        assert resolve(given, {}).settings.error_text_in_force == in_force, json.dumps(given)
    with pytest.raises(SettingsError, match=r"error_text is 'some' .*it must be full or class or id"):
        resolve({}, {"STRANDLINE_ERROR_TEXT": "some"})
