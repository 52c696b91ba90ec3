"""Webhooks at https URLs: real certificates, good and bad, and what a person reads about the bad ones."""

import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from acceptance.receiver import Receiver, receiving
from acceptance.server import TARGETS, Server, ran, serving, until
from acceptance.test_webhooks import flags, left, sent
from certificates import Authority
from docs.page_table import claimed

AGENT = TARGETS / "agent.py"
DAY = timedelta(days=1)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@contextmanager
def trusting(authority: Authority, folder: Path, *more: str) -> Iterator[Server]:
    """Have a server that trusts an authority."""
    with serving(AGENT, *flags(folder, *more), folder=folder, variables={"SSL_CERT_FILE": str(authority.file)}) as at:
        yield at


def answer_of_test(server: Server, url: str) -> dict[str, Any]:
    found: dict[str, Any] = server.client.post("/v1/webhooks/test", json={"url": url}).json()
    return found


def test_an_event_is_sent_to_a_receiver_whose_authority_is_trusted(authority: Authority, tmp_path: Path) -> None:
    """Beside the public ones, as docs/webhooks.md says."""
    (block,) = claimed("webhooks.md", "test_an_event_is_sent_to_a_receiver_whose_authority_is_trusted")
    make, serve = block.text.splitlines()
    subprocess.run(make, shell=True, check=True, cwd=tmp_path)
    name, _, trusted = serve.split(" ")[0].partition("=")
    with (
        receiving(authority.serving("localhost")) as receiver,
        serving(AGENT, *flags(tmp_path), folder=tmp_path, variables={name: str(tmp_path / trusted)}) as server,
    ):
        run_id = sent(server, {"url": f"{receiver.url}/hook"})
        (came,) = receiver.until(lambda found: found, "the event")
        assert came.event["data"]["run_id"] == run_id
        until(lambda: not left(server), "it is received")
        shown = ran("webhooks", "test", receiver.url, "--url", server.url, folder=tmp_path)
        assert "was received" in shown.stdout


BAD: dict[str, tuple[Callable[[Authority], Any], str]] = {
    "expired": (
        lambda at: at.serving("localhost", valid_from=-2 * DAY, valid_to=-DAY),
        "its certificate was refused: it has expired, so its owner must renew it",
    ),
    "not yet": (
        lambda at: at.serving("localhost", valid_from=DAY, valid_to=2 * DAY),
        "its certificate was refused: it is not valid yet",
    ),
    "another host": (
        lambda at: at.serving("example.com"),
        "its certificate was refused: it is for another host, so its owner must add this one, or the URL is wrong",
    ),
    "self-signed": (
        lambda at: at.serving("localhost", by_itself=True),
        "its certificate was refused: it is signed by itself; to trust it all the same, set SSL_CERT_FILE",
    ),
    "unknown": (
        lambda at: Authority(_folder(at), "Another authority").serving("localhost"),
        "its certificate was refused: this server does not know the authority that signed it",
    ),
    "no TLS": (lambda _: None, "there was no answer in TLS: does the receiver serve https at this port?"),
}


def _folder(at: Authority) -> Path:
    folder = at.file.parent / "other"
    folder.mkdir()
    return folder


def test_a_bad_certificate_is_refused_and_the_error_says_why_and_what_to_do(
    authority: Authority, tmp_path: Path
) -> None:
    """In what a test answers, in the list of events and on the terminal; nothing of an event is sent."""
    with trusting(authority, tmp_path, "--webhook-retries", "") as server:
        receivers = dict[str, Receiver]()
        for name, (make, expected) in BAD.items():
            with receiving(make(authority)) as receiver:
                receivers[name] = receiver
                url = receiver.url.replace("http://127.0.0.1", "https://localhost")
                found = answer_of_test(server, url)
                assert (found["received"], found["detail"].startswith(expected)) == (False, True), (name, found)
                assert "localhost" not in found["detail"]
                run_id = sent(server, {"url": url}, name.replace(" ", "-"))
                until(lambda: any(each["run_id"] == run_id for each in left(server, status="dead")), name)  # noqa: B023
                (event,) = (each for each in left(server, status="dead") if each["run_id"] == run_id)
                assert event["error"].startswith(expected)
                assert receiver.received == []
        shown = ran("webhooks", "--dead", "--url", server.url, folder=tmp_path).stdout
        assert all(expected in shown for _, expected in BAD.values()), shown


def test_a_certificate_may_be_for_an_address(authority: Authority, tmp_path: Path) -> None:
    """It must name it, and one for a name is none for its address."""
    with trusting(authority, tmp_path) as server:
        for hosts, received in ((("127.0.0.1",), True), (("localhost",), False)):
            with receiving(authority.serving(*hosts)) as receiver:
                found = answer_of_test(server, receiver.url.replace("localhost", "127.0.0.1"))
                assert found["received"] is received, found


def test_a_receiver_that_hangs_in_the_handshake_is_given_up(authority: Authority, tmp_path: Path) -> None:
    """One that accepts connections and says nothing; other receivers get their events meanwhile."""
    with (
        socket.create_server(("127.0.0.1", 0)) as mute,
        receiving(authority.serving("localhost")) as receiver,
        trusting(authority, tmp_path) as server,
    ):
        hangs = sent(server, {"url": f"https://localhost:{mute.getsockname()[1]}"}, "hangs")
        quick = sent(server, {"url": receiver.url}, "quick")
        receiver.until(lambda found: found, "the other one")
        assert [each.event["data"]["run_id"] for each in receiver.received] == [quick]
        until(lambda: any(each["attempts"] for each in left(server)), "it is given up")
        (event,) = left(server)
        assert (event["run_id"], event["error"]) == (hangs, "no connection within 10 s")
