"""Messages that come close together are one turn of a real agent: each has its own run, and the answer of all."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from acceptance.checkpoints import Checkpoints, checkpoints
from acceptance.server import Server, serving, texts
from acceptance.test_steer import TARGET, accepted
from strandline.client import Client, RunJoined

AT_ONCE = {"quiet": 0}
"""Nothing of these tests waits for a moment of silence: what executes keeps the turn from starting."""


@pytest.fixture
def at() -> Iterator[Checkpoints]:
    with checkpoints() as made:
        yield made


def collect(server: Server, text: str, session_id: str = "s", **more: Any) -> dict[str, Any]:
    """Submit a run that collects."""
    return accepted(server, text, session_id, **{"if_busy": "collect", "collect": AT_ONCE, **more})


def ended(server: Server, *runs: dict[str, Any]) -> list[dict[str, Any]]:
    """Return these runs once each has ended."""
    return [server.run(run["run_id"], wait_s=60) for run in runs]


def test_twenty_messages_are_one_turn_with_one_model_call(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGET, folder=tmp_path, variables=at.environment, installed=True) as server:
        at.hold("alone first")
        first = accepted(server, "first")
        at.reached("alone first")
        runs = [collect(server, f"m{number}") for number in range(20)]
        assert [(run["status"], run["position"], run["join"]) for run in runs[:2]] == [
            ("queued", 1, None),
            ("queued", 2, None),
        ]
        at.release()
        (_, head, *others) = ended(server, first, *runs)
        said = [f"m{number}" for number in range(20)]
        assert head["output"] == f"alone: {'; '.join(said)}"
        assert head["usage"] is not None
        for run in others:
            assert (run["status"], run["output"], run["usage"]) == ("succeeded", head["output"], None)
            assert (run["join"], run["joined"], run["attempt"]) == ("applied", head["run_id"], 0)
        assert at.steps == ["alone first", "alone m0"]
        assert [text.split("\n") for text in texts(server.history("s"), "user")] == [["first"], said]


def test_what_has_gathered_waits_on_over_a_kill_and_its_host_goes_on_with_all_of_it(
    at: Checkpoints, tmp_path: Path
) -> None:
    three = {"quiet": 60, "max_wait": 60, "max_items": 3}
    with serving(TARGET, folder=tmp_path, variables=at.environment) as server:
        at.hold("alone one")
        head = collect(server, "one", collect=three)
        assert (head["position"], head["why"]["code"]) == (1, "collects")
        second = collect(server, "two", collect=three)
        assert (second["position"], second["why"]["code"]) == (2, "collects"), "it is part of that turn"
        plain = accepted(server, "plain")
        assert (plain["position"], plain["why"]["code"]) == (3, "behind")
        assert server.client.post(f"/v1/runs/{plain['run_id']}/cancel").status_code == 200
        server.kill()
        server.start()
        assert server.run(second["run_id"])["status"] == "queued"
        third = collect(server, "three", collect=three)
        at.reached("alone one")
        refusal = server.client.patch(f"/v1/runs/{second['run_id']}", json={"input": "late"})
        assert (refusal.status_code, refusal.json()["code"]) == (409, "too_late")
        server.kill()
        at.release()
        server.start()
        runs = ended(server, head, second, third)
        assert {run["output"] for run in runs} == {"alone: one; two; three"}
        assert [text.split("\n") for text in texts(server.history("s"), "user")] == [["one", "two", "three"]]
        again = server.client.post(f"/v1/runs/{third['run_id']}/again", headers={"Prefer": "wait=60"})
        assert again.json()["output"] == "alone: one; two; three"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_cancelled_host_ends_all_of_its_turn(at: Checkpoints, tmp_path: Path, workers: int) -> None:
    flags = ("--workers", str(workers)) if workers else ()
    with serving(TARGET, *flags, folder=tmp_path, variables=at.environment) as server:
        pair = {"quiet": 60, "max_wait": 60, "max_items": 2}
        at.hold("alone one")
        runs = [collect(server, text, collect=pair) for text in ("one", "two", "three")]
        at.reached("alone one")
        server.client.post(f"/v1/runs/{runs[0]['run_id']}/cancel").raise_for_status()
        at.release()
        first, second = ended(server, *runs[:2])
        assert (first["status"], second["status"]) == ("cancelled", "cancelled")
        assert server.run(runs[2]["run_id"])["why"]["code"] == "collects"
        collect(server, "four", collect=pair)
        (third,) = ended(server, runs[2])
        assert third["output"] == "alone: three; four"


def test_a_session_and_the_settings_say_how_it_collects(at: Checkpoints, tmp_path: Path) -> None:
    with serving(TARGET, "--collect-quiet", "0", folder=tmp_path, variables=at.environment) as server:
        (only,) = ended(server, accepted(server, "at once", if_busy="collect"))
        assert only["output"] == "alone: at once"
        options = {"if_busy": "collect", "collect": {"quiet": 60, "max_wait": 60, "max_items": 2}}
        changed = server.client.patch("/v1/sessions/s", json={"options": options}).raise_for_status().json()
        assert changed["options"] == options
        runs = ended(server, accepted(server, "one"), accepted(server, "two"))
        assert [run["output"] for run in runs] == ["alone: one; two"] * 2
        plain = accepted(server, "plain", if_busy="enqueue")
        assert [run["output"] for run in ended(server, plain)] == ["alone: plain"]


def test_a_function_gets_the_texts_of_a_turn_as_one(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(
        "async def answer(message, session):\n    return f'heard {message!r} of {len(session.messages)}'\n"
    )
    with serving(f"{tmp_path / 'echo.py'}:answer", folder=tmp_path) as server:
        pair = {"quiet": 60, "max_wait": 60, "max_items": 2}
        with Client(server.url) as client:
            first = collect(server, "one", collect=pair)
            second = client.chat("two", "s", if_busy="collect", collect=pair)
            assert second.output == "heard 'one\\ntwo' of 0"
            assert ended(server, first)[0]["output"] == second.output
            assert ended(server, first)[0]["join"] is None
            joined = [event for event in client.events(second.run_id) if isinstance(event, RunJoined)]
            assert [(event.joining, event.joined) for event in joined] == [(second.run_id, first["run_id"])]


def test_a_session_that_collects_needs_no_policy_to_say_how(tmp_path: Path, at: Checkpoints) -> None:
    with serving(TARGET, folder=tmp_path, variables=at.environment) as server:
        ended(server, accepted(server, "hello"))
        options = {"options": {"if_busy": "collect"}}
        assert server.client.patch("/v1/sessions/s", json=options).status_code == 200
        pair = {"quiet": 60, "max_wait": 60, "max_items": 2}
        first, second = (accepted(server, text, collect=pair) for text in ("one", "two"))
        assert [each["output"] for each in ended(server, first, second)] == ["alone: one; two"] * 2
        refusal = server.client.post("/v1/sessions/s/runs", json={"input": "x", "if_busy": "enqueue", "collect": pair})
        assert (refusal.status_code, refusal.json()["code"]) == (422, "invalid")


def test_what_does_not_go_with_collecting_is_refused(tmp_path: Path, at: Checkpoints) -> None:
    with serving(TARGET, folder=tmp_path, variables=at.environment) as server:
        for more in (
            {"collect": {"quiet": 1}},
            {"collect": {"quiet": 1}, "after": None},
            {"collect": {"quiet": 1}, "not_before": "2030-01-01T00:00:00Z"},
            {"if_busy": "steer", "collect": {"quiet": 1}},
            {"if_busy": "collect", "collect": {"quiet": 61}},
            {"if_busy": "collect", "collect": {"max_items": 0}},
            {"if_busy": "collect", "collect": {"silence": 1}},
            {"if_busy": "collect", "not_before": "2030-01-01T00:00:00Z"},
            {"if_busy": "collect", "after": None},
            {"if_busy": "collect", "expected_run_id": "run_x"},
        ):
            refusal = server.client.post("/v1/sessions/s/runs", json={"input": "x", **more})
            assert (refusal.status_code, refusal.json()["code"]) == (422, "invalid"), more


def test_a_turn_that_was_collected_goes_back_and_is_forked_whole(at: Checkpoints, tmp_path: Path) -> None:
    pair = {"quiet": 60, "max_wait": 60, "max_items": 2}
    with serving(TARGET, folder=tmp_path, variables=at.environment) as server:
        first, second = ended(server, *(collect(server, text, collect=pair) for text in ("one", "two")))
        (later,) = ended(server, accepted(server, "later"))
        for number, run in enumerate((first, second)):
            made = server.client.post("/v1/sessions/s/fork", json={"session_id": f"f{number}", "after": run["run_id"]})
            assert (made.status_code, made.json()["messages"]) == (201, 2), made.text
            gone_on = ended(server, accepted(server, "mine", f"f{number}"))[0]
            assert gone_on["output"] == "alone: mine"
            other = ended(server, accepted(server, "yours", f"f{number}", after=first["run_id"]))[0]
            assert other["superseded"] == [gone_on["run_id"]]
            assert texts(server.history(f"f{number}"), "user") == ["one\ntwo", "yours"]
            edited = ended(server, accepted(server, f"edited {number}", after=run["run_id"]))[0]
            assert edited["superseded"] == [later["run_id"]]
            later = edited
        assert texts(server.history("s"), "user") == ["one\ntwo", "edited 1"]
        again = server.client.post(f"/v1/runs/{second['run_id']}/again", headers={"Prefer": "wait=60"}).json()
        assert again["output"] == "alone: one; two"
        assert texts(server.history("s"), "user") == ["one\ntwo"]


def test_a_list_with_what_was_collected_is_continued(at: Checkpoints, tmp_path: Path) -> None:
    pair = {"quiet": 60, "max_wait": 60, "max_items": 2}
    with serving(TARGET, folder=tmp_path, variables=at.environment) as server:
        runs = ended(server, *(collect(server, text, collect=pair) for text in ("one", "two")))
        answer = {"role": "assistant", "content": runs[0]["output"]}
        one, two, three, four = ({"role": "user", "content": text} for text in ("one", "two", "three", "four"))

        def follow(*messages: dict[str, str]) -> None:
            headers = {"X-Session-Id": "s", "X-Client-History": "follow"}
            body = {"model": "default", "messages": messages}
            server.client.post("/v1/chat/completions", json=body, headers=headers).raise_for_status()

        follow(one, answer, two, answer, three)
        assert texts(server.history("s"), "user") == ["one\ntwo", "three"]
        follow(one, answer, two, answer, four)
        assert texts(server.history("s"), "user") == ["one\ntwo", "four"]
