"""What the log says of access: refusals, sparingly and without a key, and who changed what."""

import asyncio
import logging
import re
from pathlib import Path
from typing import Any, Final

import pytest

from strandline._access.keyring import id_of, new_key
from strandline._http import wire
from strandline._http.middleware.access_log import BURST, EVERY_S, Denials
from strandline._telemetry.recorder import DENIALS, MetricsRecorder
from strandline.testing._virtual import VirtualClock, run_virtual
from unit.test_access import ADA, BOB, OPS, run, served

LOGGER: Final = "strandline.access"


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [each.getMessage() for each in caplog.records if each.name == LOGGER]


def test_a_request_that_is_not_let_in_leaves_a_line_with_the_id_of_its_key_and_a_count(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unknown, _ = new_key("eve")

    async def main() -> None:
        async with served(tmp_path) as world:
            for key, path, reason in (
                (None, "/v1/sessions", "no key"),
                (unknown, "/v1/runs/run_1", f"key {id_of(unknown.encode())}"),
                ("password", "/chat", "a key of unknown format"),
                (ADA[0], "/metrics", f"key {ADA[1].id}"),
            ):
                async with world.client(key) as client:
                    assert (await client.get(path, params={"secret": "in-the-query"})).status_code in (401, 403)
                (line,) = lines(caplog)
                assert line.startswith(f"refused GET {path} from 127.0.0.1: "), line
                assert reason in line
                caplog.clear()
            async with world.client(ADA[0], Host="evil.example") as foreign:
                assert (await foreign.get("/v1/sessions")).status_code == 403
            (line,) = lines(caplog)
            assert "names evil.example" in line
            async with world.client(OPS[0]) as ops:
                metrics = (await ops.get("/metrics")).text
            for reason, count in (
                ("no_key", 1), ("unknown_key", 2), ("operators_only", 1), ("foreign", 1), ("revoked_key", 0),
                ("malformed_key", 0),
            ):  # fmt: skip
                assert f'strandline_requests_denied_total{{reason="{reason}"}} {count}.0' in metrics
            async with world.client("wrong") as wrong:
                assert (await wrong.get("/health")).status_code == 200
            assert len(lines(caplog)) == 1, "a probe is answered whatever it shows"

    with caplog.at_level(logging.INFO, LOGGER):
        run(main())
    everything = caplog.text
    for secret in (unknown, "password", ADA[0], "in-the-query"):
        assert secret not in everything


def test_a_revoked_key_of_a_waiting_request_is_logged_by_its_id(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lines_of_file = [ADA[1].line(), BOB[1].line()]
    file = tmp_path / "keys"
    file.write_text("\n".join(lines_of_file))

    async def main() -> None:
        async with served(tmp_path, api_keys=[], api_keys_file=file) as world, world.client(ADA[0]) as ada:
            waiting = asyncio.create_task(ada.post("/chat", json={"message": "hold", "session_id": "desk"}))
            await world.gate.reached.wait()
            file.write_text(lines_of_file[1])
            assert world.app._keys is not None
            await world.app._keys.reload()
            assert (await waiting).status_code == 401
        (line,) = [each for each in lines(caplog) if each.startswith("refused ")]
        assert line == f"refused POST /chat from 127.0.0.1: this key has been revoked (key {ADA[1].id})"

    with caplog.at_level(logging.INFO, LOGGER):
        run(main())


def test_refusals_are_few_lines_however_many_there_are_and_all_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def life(clock: VirtualClock) -> None:
        recorder = MetricsRecorder()
        assert set(recorder.denials) == set(DENIALS)
        denials = Denials(clock, recorder.denied)
        scope = {"type": "http", "method": "GET", "path": "/x\n2026 ERROR \x1b[2J\u202e" + "y" * 1000, "client": None}
        error = wire.Unauthorized("this key is not valid", shown=True, reason="unknown_key")
        for _ in range(10_000):
            denials.note(scope, error)
        assert len(lines(caplog)) == BURST
        await asyncio.sleep(EVERY_S + 0.1)
        denials.note(scope, error)
        denials.note(scope, error)
        assert len(lines(caplog)) == BURST + 1
        assert f"{10_000 - BURST} more were refused" in lines(caplog)[-1]
        assert "from an unknown address" in lines(caplog)[-1]
        await asyncio.sleep(1_000_000)
        for _ in range(100):
            denials.note(scope, error)
        assert len(lines(caplog)) == 2 * BURST + 1
        assert "1 more were refused" in lines(caplog)[BURST + 1]
        assert recorder.denials["unknown_key"] == 10_102
        assert all(each.isprintable() and len(each) < 500 for each in lines(caplog))

    with caplog.at_level(logging.INFO, LOGGER):
        run_virtual(life)


def test_the_id_of_a_key_is_the_beginning_of_the_hash_in_its_line_and_none_for_what_could_be_guessed() -> None:
    key, kept = new_key("ada")
    assert kept.id == id_of(key.encode())
    assert f"sha256:{kept.id}" in kept.line()
    for other in (b"password", b"", key.encode() + b"x", key.encode()[:-1], b"strandline_" + b"\xff" * 43):
        assert id_of(other) is None


def test_who_changed_what_is_logged_with_the_id_of_the_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with served(tmp_path) as world, world.client(ADA[0]) as ada, world.client(BOB[0]) as bob:
            runs = "/v1/sessions/desk/runs"
            first = (await ada.post(runs, json={"input": "hold"})).json()["run_id"]
            await world.gate.reached.wait()
            ids = [(await ada.post(runs, json={"input": f"m{each}"})).json()["run_id"] for each in range(3)]
            caplog.clear()

            async def done(client: Any, method: str, path: str, body: Any = None) -> str:
                answer = await client.request(method, path, json=body)
                assert answer.status_code < 300, answer.text
                (line,) = lines(caplog)
                caplog.clear()
                who, _, what = line.partition(", from 127.0.0.1) ")
                assert who == f"ada (key {ADA[1].id}"
                return what

            assert await done(ada, "POST", f"/v1/runs/{ids[1]}/move", {"front": True}) == (
                f"moved run {ids[1]} of session desk to the front"
            )
            assert await done(ada, "POST", f"/v1/runs/{ids[1]}/move", {"priority": 5}) == (
                f"moved run {ids[1]} of session desk to priority 5"
            )
            assert await done(ada, "POST", "/v1/sessions/desk/pause") == "paused session desk"
            assert await done(ada, "POST", "/v1/sessions/desk/resume") == "resumed session desk"
            assert await done(ada, "POST", f"/v1/runs/{ids[0]}/cancel") == f"cancelled run {ids[0]} of session desk"
            reason = await done(ada, "POST", "/v1/sessions/desk/cancel", {"running": True})
            assert reason.startswith("cancelled the runs of session desk: ")
            assert set(re.findall(r"run_\w+", reason)) == {first, ids[1], ids[2]}
            world.gate.open()
            while (await ada.get("/v1/sessions/desk")).json()["running"]:
                await asyncio.sleep(0)
            assert await done(ada, "DELETE", "/v1/sessions/desk") == "deleted session desk"
            for method, path in (("DELETE", "/v1/sessions/desk"), ("POST", f"/v1/runs/{first}/cancel")):
                assert (await bob.request(method, path)).status_code == 404
            assert lines(caplog) == [], "nothing was changed"

    with caplog.at_level(logging.INFO, LOGGER):
        run(main())


def test_whose_request_interrupts_is_logged_as_who_cancelled_by_every_protocol(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    core = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "desk"}
    said = {"messages": [{"role": "user", "content": "hold"}]}
    agui: dict[str, Any] = {
        "threadId": "desk",
        "runId": "1",
        "messages": [{"id": "m", "role": "user", "content": "hold"}],
        "forwardedProps": {"strandline": {"if_busy": "interrupt"}},
    }
    mcp: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "ask",
            "arguments": {"message": "hold", "session": "desk"},
            "_meta": {"strandline/options": {"if_busy": "interrupt"}},
        },
    }
    message: dict[str, Any] = {"messageId": "2", "contextId": "desk", "parts": [{"text": "hold"}]}
    message["metadata"] = {"strandline": {"if_busy": "interrupt"}}
    a2a = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message}}
    sent: list[tuple[str, dict[str, Any], dict[str, str]]] = [
        ("/v1/sessions/desk/runs", {"input": "hold"}, {}),
        ("/chat", {"message": "hold", "session_id": "desk"}, {}),
        ("/v1/chat/completions", said, {"X-Session-Id": "desk"}),
        ("/invocations", {"prompt": "hold"}, core),
        ("/agui", agui, {}),
        ("/mcp", mcp, {}),
        ("/a2a", a2a, {}),
    ]

    async def main() -> None:
        async with (
            asyncio.timeout(60),
            served(tmp_path) as world,
            world.client(ADA[0]) as ada,
            asyncio.TaskGroup() as tasks,
        ):
            await ada.post("/v1/sessions/desk/runs", json={"input": "hold"})
            await world.gate.reached.wait()
            for path, body, headers in sent:
                running = (await ada.get("/v1/sessions/desk")).json()["running"]
                assert running
                tasks.create_task(ada.post(path, json={**body, "if_busy": "interrupt"}, headers=headers))
                while not lines(caplog):
                    await asyncio.sleep(0)
                (line,) = lines(caplog)
                caplog.clear()
                reason = f"ada (key {ADA[1].id}, from 127.0.0.1) cancelled {running} of session desk, for run_"
                assert line.startswith(reason), path
                while (await ada.get("/v1/sessions/desk")).json()["running"] in (running, None):
                    await asyncio.sleep(0)
            world.gate.open()

    with caplog.at_level(logging.INFO, LOGGER):
        run(main())


def test_without_keys_who_changed_what_is_logged_with_the_address(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with served(tmp_path, api_keys=[]) as world, world.client(None) as client:
            await client.post("/chat", json={"message": "m", "session_id": "desk"})
            assert (await client.delete("/v1/sessions/desk")).status_code == 204
            assert lines(caplog) == ["anonymous (no key, from 127.0.0.1) deleted session desk"]

    with caplog.at_level(logging.INFO, LOGGER):
        run(main())
