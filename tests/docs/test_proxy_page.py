"""The page about proxies is true: its nginx configuration, in a real nginx, in front of a real server."""

import getpass
import os
import re
import socket
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import NamedTuple

import httpx
import pytest

from acceptance.events import ACCEPT
from acceptance.server import Server, serving, until
from docs.browser import needed
from docs.pages import block, text
from ports import reserved_port
from strandline._config import descriptions, resolve

PAGE = "behind-a-proxy.md"
HOST = "agents.example.com"
AUTH = ("ada", "a long password")

AGENT = """
import asyncio
from pathlib import Path
from strands import Agent
from strandline.testing import ScriptedModel, question

async def script(messages):
    while not Path("open").exists():
        await asyncio.sleep(0.01)
    return f"You asked: {question(messages)}"

def make_agent(session_id: str) -> Agent:
    return Agent(model=ScriptedModel(script))
"""


SETTINGS = tomllib.loads(block(PAGE, "toml"))


class Front(NamedTuple):
    """nginx, and the server behind it."""

    url: str
    server: Server
    folder: Path

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(
            base_url=self.url, auth=AUTH, headers={"Host": HOST, **headers}, timeout=30, trust_env=False
        )


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    nginx = needed("nginx")
    folder = tmp_path_factory.mktemp("proxy")
    (folder / "agent.py").write_text(AGENT)
    (folder / "strandline.toml").write_text(block(PAGE, "toml"))
    passwords = folder / "htpasswd"
    command = block(PAGE, "sh", "openssl").replace("/etc/nginx/strandline.htpasswd", str(passwords))
    subprocess.run(["sh", "-c", command], check=True, timeout=30)
    with serving("agent.py", folder=folder) as server:
        port = reserved_port()
        places = {
            "127.0.0.1:8080": server.url.removeprefix("http://"),
            "listen 80;": f"listen 127.0.0.1:{port};",
            "/etc/nginx/strandline.htpasswd": str(passwords),
        }
        configuration = block(PAGE, "nginx")
        for there, here in places.items():
            assert there in configuration
            configuration = configuration.replace(there, here)
        with _nginx(nginx, folder, configuration, port):
            yield Front(f"http://127.0.0.1:{port}", server, folder)


class _nginx:  # noqa: N801
    """nginx in the foreground with a configuration of ours, for the time of a `with`."""

    def __init__(self, program: str, folder: Path, configuration: str, port: int) -> None:
        file, self._port = folder / "nginx.conf", port
        temporary = "".join(
            f"{kind}_temp_path {folder}/{kind};\n" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        file.write_text(
            f"daemon off;\nmaster_process off;\nuser {getpass.getuser()};\npid {folder}/nginx.pid;\n"
            f"events {{}}\nhttp {{\naccess_log off;\n{temporary}{configuration}}}\n"
        )
        self._command = [program, "-e", "stderr", "-p", str(folder), "-c", str(file)]

    def __enter__(self) -> None:
        self._process = subprocess.Popen(self._command, stderr=subprocess.PIPE, env={**os.environ, "TZ": "UTC"})
        until(self._answers, "nginx listens")

    def _answers(self) -> bool:
        assert self._process.poll() is None, self._process.communicate()[1].decode()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self._port)) == 0

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate(timeout=30)


@contextmanager
def _another(front: Front, folder: Path, without: str) -> Iterator[str]:
    """Run one more nginx, with the page's configuration but for a line of it."""
    configuration = (front.folder / "nginx.conf").read_text()
    assert without in configuration
    port = reserved_port()
    inner = configuration.partition("http {\n")[2].rpartition("}\n")[0].replace(without, "")
    inner = re.sub(r"listen [\d.:]+;", f"listen 127.0.0.1:{port};", inner)
    inner = re.sub(r"^(access_log|\w+_temp_path).*\n", "", inner, flags=re.MULTILINE)
    with _nginx(needed("nginx"), folder, inner, port):
        yield f"http://127.0.0.1:{port}"


def test_messages_wait_their_turn_and_are_answered_through_the_proxy(front: Front) -> None:
    (front.folder / "open").unlink(missing_ok=True)
    with front.client() as client:
        pending = []
        for number in range(3):
            pending.append(front.server.submit(client.post, "/chat", json={"message": f"m{number}"}))
            until(lambda: front.server.inside() == len(pending), "inside")
        assert client.get("/health").json()["queue_depth"] == 2
        (front.folder / "open").touch()
        answers = [each.result(30).json() for each in pending]
        assert [each["response"] for each in answers] == [f"You asked: m{number}" for number in range(3)]
        run = client.get(f"/v1/runs/{answers[0]['run_id']}").json()
        assert run["status"] == "succeeded"


def test_the_command_of_the_page_gets_an_answer(front: Front) -> None:
    (front.folder / "open").touch()
    command = (
        block(PAGE, "sh", "curl").replace(f"http://{HOST}", front.url).replace("curl ", f"curl -H 'Host: {HOST}' ")
    )
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=30, check=True)
    assert '"response":"You asked: hello"' in done.stdout


def test_who_has_no_password_is_refused_but_probes_are_answered(front: Front) -> None:
    with httpx.Client(base_url=front.url, headers={"Host": HOST}, trust_env=False) as client:
        assert client.post("/chat", json={"message": "hello"}).status_code == 401
        assert client.get("/readyz").status_code == 200


def test_a_foreign_host_is_refused_by_the_server_whatever_the_proxy_lets_through(front: Front) -> None:
    with front.client(Host="elsewhere.example.com") as client:
        refused = client.post("/chat", json={"message": "hello"})
    assert (refused.status_code, refused.json()["code"]) == (403, "foreign")


@pytest.mark.parametrize("line", ["", "proxy_buffering off;"])
def test_a_stream_is_passed_on_event_by_event_also_without_the_buffering_line(
    front: Front, tmp_path: Path, line: str
) -> None:
    (front.folder / "open").unlink(missing_ok=True)
    with (
        _another(front, tmp_path, without=line) as url,
        httpx.Client(base_url=url, auth=AUTH, headers={"Host": HOST}, timeout=30, trust_env=False) as client,
        client.stream("POST", "/chat", json={"message": "hello"}, headers=ACCEPT) as answer,
    ):
        lines = answer.iter_lines()
        assert "event: run.started" in lines, "sent while the agent waits"
        (front.folder / "open").touch()
        assert "event: run.finished" in lines


def test_without_the_hosts_line_the_server_refuses_as_the_page_says(front: Front, tmp_path: Path) -> None:
    with _another(front, tmp_path, without="proxy_set_header Host $host;") as url:
        refused = httpx.post(f"{url}/chat", json={"message": "hello"}, auth=AUTH, headers={"Host": HOST})
    assert (refused.status_code, refused.json()["code"]) == (403, "foreign")


def test_the_proxy_waits_longer_than_a_run_may_take(tmp_path: Path) -> None:
    settings = resolve(SETTINGS, {}, folder=tmp_path).settings
    waits_s = int(str(re.search(r"proxy_read_timeout (\d+)s;", text(PAGE))[1]))  # type: ignore[index]
    assert waits_s > settings.queue_timeout_s + settings.timeout_s + settings.cancel_grace_s


def test_a_body_is_refused_by_the_proxy_at_the_limit_of_the_server(front: Front) -> None:
    limit = SETTINGS["max_body_bytes"]
    around = len('{"message":""}')
    (front.folder / "open").touch()
    with front.client() as client:
        largest = client.post("/chat", content=b'{"message":"%s"}' % (b"x" * (limit - around)))
        larger = client.post("/chat", content=b'{"message":"%s"}' % (b"x" * (limit - around + 1)))
    assert largest.status_code == 200
    assert largest.json()["status"] == "success"
    assert (larger.status_code, larger.headers["Content-Type"]) == (413, "text/html"), "refused by the server"
    direct = front.server.client.post("/chat", content=larger.request.content)
    assert (direct.status_code, direct.json()["code"]) == (413, "body_too_large")


def test_the_container_is_given_only_settings_that_exist() -> None:
    variables = re.findall(r"-e STRANDLINE_(\w+)=", block(PAGE, "sh", "docker run"))
    assert variables == ["ALLOWED_HOSTS"]
    assert "allowed_hosts" in descriptions()
    assert re.findall(r"^([\w.]+)", block(PAGE, "toml"), re.MULTILINE) == list(SETTINGS)
    assert SETTINGS.keys() <= descriptions().keys()


@contextmanager
def _named(name: str) -> Iterator[int]:
    """Serve, at the port that is given, a server that answers with its name."""

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(name.encode())

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, args=[0.01]).start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()


def test_several_servers_have_each_its_sessions_for_good(tmp_path: Path) -> None:
    nginx, port = needed("nginx"), reserved_port()
    with _named("one") as one, ExitStack() as stack:
        two = stack.enter_context(_named("two"))
        configuration = block(PAGE, "nginx", containing="hash ")
        for there, here in {"127.0.0.1:8081": one, "127.0.0.1:8082": two, "80": port}.items():
            assert f" {there}" in configuration
            configuration = re.sub(rf" {there}\b", f" 127.0.0.1:{here}", configuration)
        with (
            _nginx(nginx, tmp_path, configuration, port),
            httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30) as client,
        ):

            def get(path: str, session: str) -> str:
                answer = client.get(path, headers={"X-Session": session})
                return answer.text if answer.status_code == 200 else str(answer.status_code)

            sessions = [f"user-{number}" for number in range(20)]
            before = {each: get("/history", each) for each in sessions}
            assert set(before.values()) == {"one", "two"}
            assert {each: get("/v1/runs/7", each) for each in sessions} == before
            assert client.get("/history").status_code == 400
            stack.close()
            for _ in range(3):
                now = {each: get("/history", each) for each in sessions}
                assert now == {each: "one" if name == "one" else "502" for each, name in before.items()}
