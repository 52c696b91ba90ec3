"""Chats that have become long: a body of many old images is taken, in the memory that its last message takes.

The clients are real sockets that send 64 MiB; the server is the installed command.
"""

import json
import statistics
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from acceptance.server import DEADLINE_S, Server, serving, texts
from acceptance.test_large_lists import peak_bytes

MIB: Final = 1024 * 1024
MAX_BODY: Final = 2 * MIB
AT_ONCE: Final = 4
AGENT: Final = """
async def answer(message, session):
    return f"{len(message)} characters"
"""
PLACE: Final = "/v1/chat/completions"
AS_JSON: Final = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("long")
    (folder / "echo.py").write_text(AGENT)
    with serving("echo.py:answer", "--max-body-bytes", str(MAX_BODY), folder=folder, installed=True) as made:
        yield made


def image(size: int) -> dict[str, Any]:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "QUJD" * (size // 4)}}
    return {"role": "user", "content": [{"type": "text", "text": "what is this?"}, part]}


def chat(old: list[dict[str, Any]], session_id: str, last: str = "hello", **more: Any) -> bytes:
    said = [*old, {"role": "user", "content": last}]
    return json.dumps({"messages": said, "user": session_id, **more}).encode()


def post(server: Server, body: bytes, **headers: str) -> httpx.Response:
    return server.client.post(PLACE, content=body, headers={**AS_JSON, **headers})


def error(response: httpx.Response) -> tuple[int, str, str]:
    body = response.json()["error"]
    return response.status_code, body["code"], body["message"]


def test_six_old_images_do_not_end_a_chat(server: Server) -> None:
    old = [each for _ in range(6) for each in (image(MIB), {"role": "assistant", "content": "a bird"})]
    body = chat(old, "images")
    assert len(body) > 3 * MAX_BODY
    said = post(server, body)
    assert said.status_code == 200, said.text
    assert said.json()["choices"][0]["message"]["content"] == "5 characters"
    assert texts(server.history("images"), "user") == ["hello"]
    largest = post(server, chat([*old, image(3 * MIB)], "images", last="x" * (MAX_BODY - 100)))
    assert largest.json()["choices"][0]["message"]["content"] == f"{MAX_BODY - 100} characters"


def test_a_long_chat_is_refused_for_what_ends_it_in_openais_form(server: Server) -> None:
    old = [image(MIB)] * 3
    status, code, why = error(post(server, chat(old, "ends", last="x" * MAX_BODY)))
    assert (status, code) == (413, "body_too_large")
    assert why == f"the last message may have at most {MAX_BODY} bytes (setting max_body_bytes)"
    assert "(setting max_body_bytes)" in error(post(server, chat(old, "ends", padding="x" * MAX_BODY)))[2]
    assert error(post(server, chat(old, "ends")[:-1]))[:2] == (400, "malformed")
    assert error(post(server, chat(old, "ends").replace(b"QUJD", b"QU\nD", 1)))[:2] == (400, "malformed")
    assert error(post(server, chat([*old, {"role": 5}], "ends")))[:2] == (400, "invalid")
    assert error(post(server, b"[" * 3 * MAX_BODY))[:2] == (400, "malformed")
    assert server.client.post(PLACE, content=chat(old, "ends")).status_code == 415
    assert server.client.get("/v1/sessions/ends").status_code == 404


def test_a_long_chat_that_is_sent_again_under_its_key_is_the_same_run(server: Server) -> None:
    old = [image(MIB)] * 3
    first, again = (post(server, chat(old, "keyed"), **{"Idempotency-Key": "key"}) for _ in range(2))
    assert again.headers["idempotency-replayed"] == "true"
    assert again.json()["id"] == first.json()["id"]
    reused = post(server, chat([image(MIB + 4), *old[1:]], "keyed"), **{"Idempotency-Key": "key"})
    assert error(reused)[1] == "key_reused"
    assert texts(server.history("keyed"), "user") == ["hello"]


def test_the_whole_chat_has_a_bound_that_can_be_set(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(AGENT)
    limits = ("--max-body-bytes", "1000", "--max-chat-body-bytes", "5000")
    with serving("echo.py:answer", *limits, folder=tmp_path) as server:
        around = len(chat([{"role": "user", "content": ""}], "s"))
        for more, status in ((0, 200), (1, 413)):
            body = chat([{"role": "user", "content": "x" * (5000 - around + more)}], "s")
            sent = [post(server, body), server.client.post(PLACE, content=iter([body]), headers=AS_JSON)]
            assert [each.status_code for each in sent] == [status] * 2, "with its size announced, and without"
            if status == 413:
                why = "the body may have at most 5000 bytes (setting max_chat_body_bytes)"
                assert [error(each)[1:] for each in sent] == [("body_too_large", why)] * 2


def test_long_chats_take_the_memory_of_their_last_messages_and_leave_the_loop_to_others(tmp_path: Path) -> None:
    """Several of 64 MiB at once: of images, and of one early message that is larger than any that is kept."""
    (tmp_path / "echo.py").write_text(AGENT)
    fill = 63 * MIB
    bodies = [
        chat([image(MIB)] * (fill // MIB - 2), "images"),
        chat([image(fill)], "one"),
        chat([{"role": "user", "content": [[0] * MIB] * 8}], "structure").replace(
            b'"content": [[', b'"content": null, "x": [[', 1
        ),
    ]
    small = b"hello" * 3
    with serving("echo.py:answer", "--max-body-bytes", str(MAX_BODY), folder=tmp_path, installed=True) as server:
        post(server, chat([], "warm", last=small.decode()))
        before = peak_bytes(server)
        with ThreadPoolExecutor(AT_ONCE) as elsewhere:
            pending = [
                elsewhere.submit(httpx.post, server.url + PLACE, content=body, headers=AS_JSON, timeout=DEADLINE_S * 4)
                for body in (bodies * AT_ONCE)[:AT_ONCE]
            ]
            waited = []
            while not all(each.done() for each in pending):
                began = time.perf_counter()
                assert server.client.get("/health").status_code == 200
                waited.append(time.perf_counter() - began)
        assert [each.result().status_code for each in pending] == [200] * AT_ONCE, [
            each.result().text for each in pending
        ]
        grown = peak_bytes(server) - before
        assert grown < AT_ONCE * 8 * MAX_BODY, f"{grown / MIB:.0f} MiB for {AT_ONCE} of 64 MiB"
        assert statistics.median(waited) < 0.2
