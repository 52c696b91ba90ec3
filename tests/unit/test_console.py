"""The console's page and files, as browsers and programs get them, and that they are what their sources make."""

import gzip
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from starlette.testclient import TestClient

import client_packages
import strandline
from strandline._agents.function import Session
from strandline._http.app.console import POLICY

ROOT: Final = Path(__file__).parents[2]
BUILT: Final = ROOT / "src" / "strandline" / "_console"
WEB: Final = ROOT / "web"
MOST_BYTES: Final = 120 * 1024
BUILD_S: Final = 240
BROWSER: Final = {
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Encoding": "gzip",
}


async def answer(message: str, session: Session) -> str:
    return message


@pytest.fixture(scope="module")
def client() -> Iterator[TestClient]:
    with TestClient(strandline.asgi(answer, journal="memory:"), base_url="http://127.0.0.1") as made:
        yield made


def test_browsers_get_the_page_and_programs_get_links(client: TestClient) -> None:
    page = client.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.headers["content-security-policy"] == POLICY
    assert page.text == (BUILT / "index.html").read_text()
    assert client.get("/console", headers={"Accept": "*/*"}).text == page.text
    for accepted in ("*/*", "application/json"):
        shown = client.get("/", headers={"Accept": accepted})
        assert shown.json() == {
            "name": "strandline", "version": strandline.__version__, "console": "/console", "docs": "/docs",
            "openapi": "/openapi.json", "health": "/health",
        }  # fmt: skip
        assert shown.headers["vary"] == "Accept"
    for link in ("/console", "/docs", "/openapi.json", "/health"):
        assert client.get(link).status_code == 200, link


def test_the_policy_allows_its_own_files_and_nothing_else() -> None:
    rules = dict(each.strip().split(" ", 1) for each in POLICY.split(";"))
    assert rules["default-src"] == rules["frame-ancestors"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert {rules[each] for each in ("script-src", "style-src", "img-src", "connect-src")} == {"'self'"}
    assert rules["require-trusted-types-for"] == "'script'"
    assert "unsafe" not in POLICY


def test_the_page_names_its_files_by_their_content_and_browsers_keep_these(client: TestClient) -> None:
    named = re.findall(r'(?:src|href)="([^"]+)"', (BUILT / "index.html").read_text())
    assert len(named) == 3
    for each in named:
        assert each.startswith("console/"), "relative, for servers that are mounted at a path"
        got = client.get(f"/{each}", headers=BROWSER)
        assert got.status_code == 200
        assert got.headers["cache-control"] == "public, max-age=31536000, immutable"
        path, _, _ = each.partition("?")
        assert client.get(f"/{path}?v=0123").headers["cache-control"] == "no-cache", "another version"
        assert client.get(f"/{path}").headers["cache-control"] == "no-cache"


def test_an_unchanged_file_is_not_sent_again(client: TestClient) -> None:
    first = client.get("/", headers=BROWSER)
    for tag in (first.headers["etag"], f"W/{first.headers['etag']}", f'"other", {first.headers["etag"]}'):
        again = client.get("/", headers={**BROWSER, "If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={**BROWSER, "If-None-Match": '"other"'}).status_code == 200


def test_files_are_compressed_for_those_who_take_it(client: TestClient) -> None:
    small = client.get("/console/console.js", headers={"Accept-Encoding": "gzip"})
    large = client.get("/console/console.js", headers={"Accept-Encoding": "identity"})
    assert small.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in large.headers
    assert small.text == large.text
    assert int(small.headers["content-length"]) < int(large.headers["content-length"]) / 2


def test_there_is_nothing_else_in_the_folder(client: TestClient) -> None:
    for name in ("index.html", "__init__.py", "..%2f_settings.py", "%2e%2e", "other.js", ""):
        assert client.get(f"/console/{name}").status_code == 404, name


def test_the_console_can_be_switched_off() -> None:
    with TestClient(strandline.asgi(answer, journal="memory:", console="off"), base_url="http://127.0.0.1") as client:
        shown = client.get("/", headers=BROWSER)
        assert shown.headers["content-type"] == "application/json"
        assert shown.json()["console"] is None
        for path in ("/console", "/console/console.js"):
            assert client.get(path, headers=BROWSER).status_code == 404


def test_all_of_it_is_small() -> None:
    assert sum(len(gzip.compress(each.read_bytes(), 9)) for each in BUILT.iterdir()) < MOST_BYTES


def test_no_file_of_it_names_another_host() -> None:
    """But for names of XML, and an address in the text of an error of `marked`; the policy allows no request there."""
    for each in BUILT.iterdir():
        named = set(re.findall(r"\bhttps?://[\w.-]+", each.read_text()))
        assert named <= {"http://www.w3.org", "https://github.com"}, f"{each.name}: only what nothing fetches"


def test_the_files_are_what_the_sources_make(tmp_path: Path) -> None:
    """With the versions of `package-lock.json`; to build them anew: npm ci && npm run build, in `web`."""
    packages = client_packages.npm_packages(WEB, "web")
    made = tmp_path / "web"
    shutil.copytree(WEB, made, ignore=shutil.ignore_patterns("node_modules"))
    (made / "node_modules").symlink_to(packages / "node_modules")
    out = tmp_path / "out"
    built = subprocess.run(
        ["npm", "run", "build"], cwd=made, env={**os.environ, "CONSOLE_OUT": str(out)}, capture_output=True, text=True,
        timeout=BUILD_S, check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    assert sorted(each.name for each in out.iterdir()) == sorted(each.name for each in BUILT.iterdir())
    for each in out.iterdir():
        assert each.read_bytes() == (BUILT / each.name).read_bytes(), f"{each.name}: build it anew"
