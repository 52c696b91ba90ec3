"""The documentation as a site: it builds without a warning, loads nothing from elsewhere, and works in a browser."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest

from docs.browser import published

ROOT = Path(__file__).parents[2]

PROBE = """<!doctype html><meta charset="utf-8"><body><script>
async function look(page) {
  const frame = document.createElement("iframe");
  frame.width = 1200;
  frame.height = 20000;
  document.body.append(frame);
  await new Promise((loaded) => { frame.onload = loaded; frame.src = page; });
  const inside = frame.contentDocument;
  await Promise.all([...inside.images].map((each) => each.decode().catch(() => null)));
  const seen = {
    heading: (inside.querySelector("h1") || {}).textContent || "",
    broken: [...inside.images].filter((each) => each.naturalWidth === 0).map((each) => each.src),
    pictures: inside.images.length,
    loaded: frame.contentWindow.performance.getEntriesByType("resource").map((each) => each.name),
    wide: [],
  };
  for (const width of [1280, 420]) {
    frame.width = width;
    if (inside.documentElement.scrollWidth > width) seen.wide.push(width);
  }
  frame.remove();
  return seen;
}
(async () => {
  const seen = {};
  for (const page of PAGES) seen[page] = await look(page);
  fetch("/posted", { method: "POST", body: JSON.stringify(seen) });
})();
</script>"""

COPIED = """<!doctype html><meta charset="utf-8"><body><script>
const within = (page, width) => new Promise((loaded) => {
  const frame = document.createElement("iframe");
  frame.width = width;
  frame.height = 2000;
  frame.onload = () => setTimeout(() => loaded(frame), 500);
  frame.src = page;
  document.body.append(frame);
});
(async () => {
  const inside = (await within("/terminal.html", 1200)).contentDocument;
  const copied = [...inside.querySelectorAll(".language-console code")].map((each) => {
    each.setAttribute("data-md-copying", "");  // as the theme does while it copies
    return each.innerText;
  });
  const cut = {};
  for (const page of PAGES) {
    const frame = await within(page, 390);
    cut[page] = [...frame.contentDocument.querySelectorAll("article table")].filter((each) => {
      const around = each.closest(".md-typeset__scrollwrap");
      const scrolls = around && frame.contentWindow.getComputedStyle(around).overflowX === "auto";
      return each.getBoundingClientRect().right > 390 && !scrolls;
    }).length;
    frame.remove();
  }
  fetch("/posted", { method: "POST", body: JSON.stringify({ copied, cut }) });
})();
</script>"""

FOUND = """<script>
const waiting = setInterval(() => {
  const links = [...document.querySelectorAll("a.md-search-result__link")].map((each) => each.href);
  if (!links.length) return;
  clearInterval(waiting);
  fetch("URL/posted", { method: "POST", mode: "no-cors", body: JSON.stringify(links) });
}, 50);
</script>"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stdout + done.stderr
    return folder


class _Loads(HTMLParser):
    """What a page has its browser fetch, by the attributes of its tags."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = {name: value or "" for name, value in attrs}
        if tag == "link" and not {"canonical", "prev", "next"} & set(named.get("rel", "").split()):
            self.found.append(named.get("href", ""))
        for attribute in ("src", "srcset", "poster", "data", "action"):
            self.found += named.get(attribute, "").split()[:1]
        self.found += _addresses_of_style(named.get("style", ""))


def _addresses_of_style(text: str) -> list[str]:
    imported = re.findall(r"@import\s+(?:url\()?[\"']?([^\"');\s]+)", text)
    return imported + re.findall(r"url\([\"']?((?!data:)[^\"')]+)", text)


def test_no_page_loads_anything_from_another_host(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 20
    for page in pages:
        loads = _Loads()
        loads.feed(page.read_text())
        assert loads.found
        assert [each for each in loads.found if urlsplit(each).netloc] == [], page.name


def test_no_style_and_no_picture_loads_anything_from_another_host(site: Path) -> None:
    styles = [*site.rglob("*.css"), *site.rglob("*.svg")]
    assert styles
    for file in styles:
        assert [each for each in _addresses_of_style(file.read_text()) if urlsplit(each).netloc] == [], file.name
    for picture in site.rglob("*.svg"):
        assert not re.search(r"(?:href|src)=[\"']https?:", picture.read_text()), picture.name


def test_no_page_needs_the_scripts_that_the_theme_would_fetch(site: Path) -> None:
    for page in site.rglob("*.html"):
        assert 'class="mermaid"' not in page.read_text(), f"{page.name}: the theme fetches mermaid from a network"


def _shows_more_than_text(page: Path) -> bool:
    """Return whether a page needs a browser's look: a guide, or a decision with a picture or a table (few have one)."""
    return page.parent.name != "adr" or bool(re.search("<(?:img|object|table)", page.read_text()))


def test_in_a_browser_without_a_network_every_page_and_picture_shows(site: Path) -> None:
    pages = sorted(page.relative_to(site).as_posix() for page in site.rglob("*.html") if _shows_more_than_text(page))
    assert len(pages) > 40
    probe = PROBE.replace("PAGES", json.dumps([f"/{page}" for page in pages]))
    with published(site) as served, _added(site / "probe.html", probe):
        seen = served.posted(f"{served.url}/probe.html")
    assert len(seen) == len(pages)
    for page, what in seen.items():
        assert what["heading"], page
        assert what["broken"] == [], page
        assert what["wide"] == [], page
        assert what["loaded"], page
        assert [each for each in what["loaded"] if not each.startswith(served.url)] == [], page


def test_the_copy_button_takes_commands_alone_and_wide_tables_scroll_on_a_phone(site: Path) -> None:
    pages = ["/reference.html", "/metrics.html", "/security.html", "/performance.html"]
    probe = COPIED.replace("PAGES", json.dumps(pages))
    with published(site) as served, _added(site / "copies.html", probe):
        seen = served.posted(f"{served.url}/copies.html")
    commands = [line.strip() for block in seen["copied"] for line in block.splitlines() if line.strip()]
    typed = re.findall(r"^\$ (.*)$", (ROOT / "docs/terminal.md").read_text(), re.MULTILINE)
    assert len(typed) > 10
    assert commands == [each.strip() for each in typed]
    assert seen["cut"] == dict.fromkeys(pages, 0)


def test_the_navigation_calls_each_page_as_its_heading_does(site: Path) -> None:
    page = (site / "index.html").read_text()
    links = re.findall(r'<a href="([\w-]+\.html)" class="md-nav__link[^"]*">(.*?)</a>', page, re.DOTALL)
    assert len(links) > 25
    for address, shown in links:
        title = " ".join(re.sub(r"<[^>]*>", " ", shown).split())
        heading = re.search(r"<h1[^>]*>(.*?)</h1>", (site / address).read_text(), re.DOTALL)
        assert heading is not None, address
        assert title == re.sub(r"<a .*?</a>|<[^>]*>", "", heading[1]).strip(), address


def test_dark_mode_follows_the_system_until_a_reader_chooses(site: Path) -> None:
    page = (site / "index.html").read_text()
    medias = re.findall(r'data-md-color-media="([^"]*)"', page)
    offered = [each for each in medias if each]
    assert offered == ["(prefers-color-scheme)", "(prefers-color-scheme: light)", "(prefers-color-scheme: dark)"]


@pytest.mark.parametrize("scheme", ["http", "file"])
def test_search_finds_a_word_of_a_page(site: Path, scheme: str) -> None:
    page = (site / "index.html").read_text()
    with published(site) as served, _added(site / "asks.html", page + FOUND.replace("URL", served.url)) as page_file:
        start = page_file.as_uri() if scheme == "file" else f"{served.url}/asks.html"
        found = served.posted(f"{start}?q=idempotent_tools")
    assert "reference.html" in [link.rpartition("/")[2].partition("?")[0] for link in found], found


@pytest.mark.parametrize(
    ("words", "pages"),
    [
        ("locked", ("concepts",)),
        ("tool hangs", ("operations",)),
        ("session stuck", ("operations",)),
        ("rotate key", ("security", "operations")),
        ("disk full", ("journal", "operations")),
        ("429", ("reference", "operations", "contract")),
    ],
)
def test_search_finds_a_guide_before_a_decision(site: Path, words: str, pages: tuple[str, ...]) -> None:
    page = (site / "index.html").read_text()
    with published(site) as served, _added(site / "asks.html", page + FOUND.replace("URL", served.url)):
        found = served.posted(f"{served.url}/asks.html?q={quote(words)}")
    assert found[0].rpartition("/")[2].partition("?")[0].removesuffix(".html") in pages, found


@contextmanager
def _added(file: Path, text: str) -> Iterator[Path]:
    file.write_text(text)
    try:
        yield file
    finally:
        file.unlink()


def test_every_page_is_in_the_navigation() -> None:
    named = set(re.findall(r"[:-] ([\w/-]+(?:\.md|/))$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    for page in (ROOT / "docs").rglob("*.md"):
        place = page.relative_to(ROOT / "docs").as_posix()
        assert place in named or f"{place.rpartition('/')[0]}/" in named, place
