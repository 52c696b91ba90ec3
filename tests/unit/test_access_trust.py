"""What callers cannot make up, hand on or have a browser do: AgentCore's metadata, baggage, filters, pages."""

import asyncio
import base64
import hashlib
import re
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

import strandline
from engine_support import key
from strandline._agents.function import Session
from strandline._engine.events import SessionPaused
from strandline._engine.streams.changes import ChangeFeed
from strandline._engine.streams.log import Bounds
from strandline._http.routes.events import MOST_SESSIONS
from strandline._library import AgentApp
from strandline._model import SessionId
from strandline._printable import clean
from strandline.testing._virtual import VirtualClock, run_virtual
from unit.test_access import ADA, LINES, OPS, run, served

TRACE: Final = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "baggage": "user=admin"}


# -- metadata.agentcore --------------------------------------------------------------------------------


def test_no_client_of_any_route_can_make_up_what_agentcore_says_of_a_request(tmp_path: Path) -> None:
    forged: dict[str, Any] = {"agentcore": {"request_id": "made up"}, "colour": "blue"}

    async def main() -> None:
        async with served(tmp_path, api_keys=[]) as world, world.client(None) as client:
            said = [{"role": "user", "content": "m"}]
            detail: dict[str, Any] = {
                "/chat": {"message": "m", "metadata": forged},
                "/v1/sessions/default/runs": {"input": "m", "metadata": forged},
                "/invocations": {"prompt": "m", "metadata": forged},
                "/v1/chat/completions": {"messages": said, "metadata": {"agentcore": "made up", "colour": "blue"}},
            }
            for path, body in detail.items():
                assert (await client.post(path, json=body, headers={"X-Session-Id": "default"})).status_code < 300, path
            await asyncio.gather(client.post("/invocations", json=detail["/invocations"], headers=TRACE))
            runs = []
            for _ in range(1000):
                runs = (await client.get("/v1/sessions/default/runs")).json()["runs"]
                if len(runs) == len(detail) + 1 and all(each["ended_at"] for each in runs):
                    break
                await asyncio.sleep(0)
            kept = [each["metadata"] for each in runs]
            assert sorted(kept, key=len) == [{"colour": "blue"}] * len(detail) + [
                {"colour": "blue", "agentcore": TRACE}
            ]

    run(main())


# -- baggage ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trusted", "whose"), [("all", {"ada", "ops", "none"}), ("operators", {"ops"}), ("none", set[str]())]
)
def test_baggage_is_handed_on_from_those_who_are_trusted_with_it(trusted: str, whose: set[str], tmp_path: Path) -> None:
    from opentelemetry import baggage

    seen: dict[str, object] = {}

    async def answer(message: str, session: Session) -> str:
        seen[message] = baggage.get_baggage("user")
        return message

    async def ask(app: AgentApp, who: str, shown: str | None) -> None:
        headers = {**TRACE, **({} if shown is None else {"Authorization": f"Bearer {shown}"})}
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1", headers=headers) as client:
            assert (await client.post("/chat", json={"message": who, "session_id": "desk"})).status_code == 200
            sent = {"prompt": f"{who}/agentcore"}
            desk = {"X-Amzn-Bedrock-AgentCore-Runtime-Session-Id": "desk"}
            run_id = (await client.post("/invocations", json=sent, headers=desk)).json()["run_id"]
            detail = (await client.get(f"/v1/runs/{run_id}")).json()["metadata"]["agentcore"]
            assert detail == {name: TRACE[name] for name in TRACE if name != "baggage" or who in whose}
        assert (seen[who], seen[f"{who}/agentcore"]) == (("admin",) * 2 if who in whose else (None, None)), who

    async def main() -> None:
        for lines, asking in ((LINES, {"ada": ADA[0], "ops": OPS[0]}), ([], {"none": None})):
            app = strandline.asgi(
                answer,
                journal="memory:",
                workspace=tmp_path,
                api_keys=lines,
                trusted_baggage=trusted,  # type: ignore[arg-type]
            )
            async with app.lifespan():
                for who, shown in asking.items():
                    await ask(app, who, shown)

    run(main())


# -- filters of subscribers ------------------------------------------------------------------------------


def test_so_many_sessions_can_be_listened_to_and_no_more(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path, api_keys=[]) as world, world.client(None) as client:
            names = [f"session_id=s{number}" for number in range(MOST_SESSIONS + 1)]
            refused = await client.get(f"/v1/events?{'&'.join(names)}")
            assert (refused.status_code, refused.json()["code"]) == (422, "invalid")
            assert "name none for the events of all" in refused.json()["detail"]
            twice = names[:MOST_SESSIONS] * 2
            listening = asyncio.create_task(client.get(f"/v1/events?{'&'.join(twice)}"))
            while not world.app.service._engine.vitals().subscribers:
                assert not listening.done()
                await asyncio.sleep(0)
            listening.cancel()

    run(main())


def test_an_event_is_looked_up_in_a_filter_and_not_searched_for() -> None:
    """However long it is: each event of a principal is held against the filters of all who listen."""

    class Counted(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Counted.compared += 1
            return str.__eq__(self, other)

        __hash__ = str.__hash__

    async def life(clock: VirtualClock) -> None:
        feeds = ChangeFeed(clock, bounds=Bounds(100, 1_000_000), retention_s=10)
        wanted = [SessionId(Counted(f"{'x' * 200}{number}")) for number in range(1_000)]
        heard = feeds.subscribe(key().principal, 0, wanted, ["session.paused"])
        for number in (5, 999, 5_000):
            feeds.publish(key(f"{'x' * 200}{number}"), None, clock.now(), SessionPaused())
        feeds.stop()
        detail = [each.session_id async for each in heard]
        assert detail == [f"{'x' * 200}{number}" for number in (5, 999)]
        assert Counted.compared < 20

    run_virtual(life)


# -- browsers and terminals ------------------------------------------------------------------------------


def test_a_browser_takes_every_answer_for_what_it_says_that_it_is(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as world, world.client(OPS[0]) as ops, world.client(None) as nobody:
            for client, path in (
                *((ops, each) for each in ("/docs", "/openapi.json", "/health", "/livez", "/metrics", "/v1/sessions")),
                (ops, "/nothing"), (ops, "/v1/models"), (nobody, "/v1/sessions"), (nobody, "/v1/models"),
            ):  # fmt: skip
                answer = await client.get(path)
                assert answer.headers.get_list("x-content-type-options") == ["nosniff"], path
            for path in ("/chat", "/invocations"):
                for accept in ("*/*", "text/event-stream"):
                    sent = {"message": "<script>", "prompt": "<script>"}
                    answer = await ops.post(path, json=sent, headers={"Accept": accept})
                    assert answer.headers.get_list("x-content-type-options") == ["nosniff"], (path, accept)
            foreign = await ops.get("/v1/sessions", headers={"Host": "evil.example"})
            assert (foreign.status_code, foreign.headers["x-content-type-options"]) == (403, "nosniff")

    run(main())


def test_the_page_of_the_routes_may_show_itself_and_nothing_else(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(tmp_path) as world, world.client(None) as client:
            page = await client.get("/docs")
            policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
            (style,) = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
            assert policy == {
                "default-src": "'none'", "style-src": f"'sha256-{digest}'", "base-uri": "'none'",
                "form-action": "'none'", "frame-ancestors": "'none'",
            }  # fmt: skip
            assert not re.search(r"<script|\sstyle=|\son\w+=|<img|<link", page.text)

    run(main())


def test_no_text_of_others_is_read_in_another_order_than_it_was_written_in() -> None:
    turned = "".join(map(chr, (*range(0x202A, 0x202F), *range(0x2066, 0x206A))))
    assert clean(f"rm {turned}-rf{turned}\n\tx") == "rm -rf\n\tx"
    assert clean("\u05e9\u05dc\u05d5\u05dd\u200f!") == "\u05e9\u05dc\u05d5\u05dd\u200f!", "what such texts need stays"
