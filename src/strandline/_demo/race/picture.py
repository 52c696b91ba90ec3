"""Draws a race as an SVG picture: which requests overlapped, which waited, and the resulting conversation.

The same record gives the same picture, byte for byte. It has its own background, and colours for light and dark pages.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any, Final
from xml.sax.saxutils import escape

from strandline._demo.race.judge import Judgement, judge
from strandline._demo.race.record import ClientResult, Invocation, Race, Request, Scenario, Server, Trial
from strandline._demo.race.text import NAMES, SCENARIOS, findings

WIDTH: Final = 860
HEIGHT: Final = 588
_PANEL: Final = 400
_LEFT: Final = 24
_BARS: Final = 282
_ROW: Final = 27
_TOP: Final = 118

_CONDITIONS: Final = (
    "The model is a script that refuses a conversation as Amazon Bedrock does. "
    "All calls let in: Strands in its mode UNSAFE_REENTRANT."
)
_STYLE: Final = """
svg { color-scheme: light dark; }
text { font-family: system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; font-size: 14px; fill: #1f2328; }
.card { fill: #ffffff; stroke: #d1d9e0; }
.title { font-size: 21px; font-weight: 600; }
.head { font-size: 16px; font-weight: 600; }
.own { font-weight: 600; }
.dim, .note { fill: #59636e; font-size: 13px; } .note { font-size: 12px; }
.good { fill: #1a7f37; } .bad { fill: #cf222e; }
.bar-good { fill: #2da44e; } .bar-bad { fill: #e5534b; }
.wait { fill: #c8d1da; } .line { stroke: #d1d9e0; }
.user { fill: #54aeff; } .assistant { fill: #a5b1bd; } .wrong { fill: none; stroke: #cf222e; stroke-width: 2; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .card { fill: #0d1117; stroke: #30363d; }
  .dim, .note { fill: #9198a1; }
  .good { fill: #3fb950; } .bad { fill: #f85149; }
  .bar-good { fill: #2ea043; } .bar-bad { fill: #da3633; }
  .wait { fill: #3d444d; } .line { stroke: #30363d; }
  .user { fill: #388bfd; } .assistant { fill: #656c76; } .wrong { stroke: #f85149; }
}
"""


def draw(race: Race) -> str:
    """Return the picture of a race."""
    left, right = race.play(Server.DEFAULT, Scenario.TOGETHER), race.play(Server.STRANDLINE, Scenario.TOGETHER)
    scale_s = max(_end(left), _end(right))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"',
        ' role="img" aria-labelledby="title about">',
        '<title id="title">Five requests to one session at once</title>',
        f'<desc id="about">{escape(_about(left, right))}</desc>',
        f"<style>{_STYLE}</style>",
        f'<rect class="card" x="0.5" y="0.5" width="{WIDTH - 1}" height="{HEIGHT - 1}" rx="10"/>',
        _text(_LEFT, 38, "Five requests to one session, all at once", "title"),
        _text(
            _LEFT,
            60,
            "The same agent behind four servers, each a real process. Measured by: strandline demo race",
            "dim",
        ),
        *_panel(left, _LEFT, scale_s),
        *_panel(right, WIDTH - _LEFT - _PANEL + 12, scale_s),
        *_grid(race),
        _text(_LEFT, HEIGHT - 38, _CONDITIONS, "note"),
        _text(
            _LEFT, HEIGHT - 18, f"Strandline {race.strandline}, Strands {race.strands}, Python {race.python}", "note"
        ),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _about(*plays: Trial) -> str:
    return " ".join(
        f"{NAMES[play.server]}: {'; '.join(text for _, text in findings(play, judge(play)))}." for play in plays
    )


def _panel(play: Trial, x: int, scale_s: float) -> Iterator[str]:
    """Draw one server's requests over time, and the conversation below them."""
    judgement = judge(play)
    yield _text(x, 96, NAMES[play.server], "head")
    yield from _legend(x + 208, judgement)
    per_s = _BARS / scale_s
    for number, request in enumerate(play.requests):
        y = _TOP + number * _ROW
        yield _text(x, y + 14, str(request.seat), "dim")
        yield from _row(play, request, x + 18, y, per_s)
        got, good = _got(request, judgement)
        yield _text(x + 18 + _BARS + 8, y + 14, got, "good" if good else "bad")
    floor = _TOP + len(play.requests) * _ROW
    yield f'<line class="line" x1="{x + 18}" y1="{floor}" x2="{x + 18 + _BARS}" y2="{floor}"/>'
    for second in range(int(scale_s) + 1):
        yield _text(x + 18 + round(second * per_s), floor + 15, f"{second} s", "dim")
    yield _text(x, floor + 43, "The conversation afterwards, a square for each message", "dim")
    yield from _conversation(play.history, x, floor + 53)
    for line, (good, text) in enumerate(_last_words(play, judgement)):
        yield _text(x, floor + 91 + line * 18, f"{'✓' if good else '✗'} {text}", "good" if good else "bad")


def _legend(x: int, judgement: Judgement) -> Iterator[str]:
    """Yield the legend of the bars; without any wait, it explains none."""
    in_line = judgement.at_once <= 1
    if judgement.refused:  # nobody waits
        yield _rect("bar-good", x + 72, 85, 18, 14) + _text(x + 96, 96, "in the agent", "dim")
        return
    if in_line:
        yield _rect("wait", x, 88, 18, 8) + _text(x + 24, 96, "waits", "dim")
    yield _rect("bar-good" if in_line else "bar-bad", x + 72, 85, 18, 14) + _text(x + 96, 96, "in the agent", "dim")


def _row(play: Trial, request: Request, x: int, y: int, per_s: float) -> Iterator[str]:
    invocations = [invocation for invocation in play.invocations if invocation.seat == request.seat]
    waits_until = invocations[0].begun_at if invocations else request.ended_at or request.sent_at
    yield _rect("wait", x + request.sent_at * per_s, y + 6, (waits_until - request.sent_at) * per_s, 8)
    for invocation in invocations:
        end = _ended(invocation, play)
        kind = "bar-bad" if invocation.failed or invocation.ended_at is None else "bar-good"
        yield _rect(kind, x + invocation.begun_at * per_s, y, (end - invocation.begun_at) * per_s, 20)


def _got(request: Request, judgement: Judgement) -> tuple[str, bool]:
    if request.seat in judgement.own:
        return "answered", True
    if request.seat in judgement.refused:
        return "refused", False
    return {
        ClientResult.ERROR: "error",
        ClientResult.ANSWER: "another's",
        ClientResult.NOTHING: "nothing",
        ClientResult.WAITS: "",
    }[request.got], False


def _conversation(history: Sequence[Any], x: int, y: int) -> Iterator[str]:
    """Draw the messages as a row of squares, and a frame around neighbours of one role."""
    step, size = 19, 15
    roles = [message["role"] for message in history]
    for index, role in enumerate(roles):
        yield _rect(role, x + index * step, y, size, size)
    index = 0
    for _, same in groupby(roles):
        count = len(list(same))
        if count > 1:
            left, wide = x + index * step - 2, (count - 1) * step + size + 4
            yield f'<rect class="wrong" x="{left}" y="{y - 2}" width="{wide}" height="{size + 4}" rx="4"/>'
        index += count
    words = x + len(roles) * step + 8
    if words < x + 250:
        yield _rect("user", words, y + 3, 9, 9) + _text(words + 13, y + 12, "user", "dim")
        yield _rect("assistant", words + 52, y + 3, 9, 9) + _text(words + 65, y + 12, "assistant", "dim")


def _last_words(play: Trial, judgement: Judgement) -> list[tuple[bool, str]]:
    said = findings(play, judgement)
    return [said[1 if judgement.refused else 0], *said[-2:]]


def _grid(race: Race) -> Iterator[str]:
    """Draw which server holds in which scenario."""
    top, columns = 424, (_LEFT, 258, 450, 668)
    yield f'<line class="line" x1="{_LEFT}" y1="{top - 24}" x2="{WIDTH - _LEFT}" y2="{top - 24}"/>'
    for x, scenario in zip(columns[1:], Scenario, strict=True):
        yield _text(x, top, SCENARIOS[scenario].split(",")[0], "dim")
    for number, server in enumerate(Server, 1):
        y = top + number * 24
        yield _text(_LEFT, y, NAMES[server], "own" if server is Server.STRANDLINE else "")
        for x, scenario in zip(columns[1:], Scenario, strict=True):
            judgement = judge(race.play(server, scenario))
            word = "✓ holds" if judgement.holds else f"✗ {_worst(judgement)}"
            yield _text(x, y, word, "good" if judgement.holds else "bad")


def _worst(judgement: Judgement) -> str:
    if judgement.lost:
        count = len(judgement.lost)
        return f"{count} request{'' if count == 1 else 's'} lost"
    if judgement.refused:
        return f"{len(judgement.refused)} of 5 refused"
    if not judgement.goes_on:
        return "conversation unusable"
    if judgement.faults or judgement.unfinished:
        return "conversation broken"
    return "a tool twice" if judgement.twice else "wrong answers"


def _ended(invocation: Invocation, play: Trial) -> float:
    return invocation.ended_at if invocation.ended_at is not None else play.killed_at or invocation.begun_at


def _end(play: Trial) -> float:
    return max(
        [
            0.1,
            *(_ended(invocation, play) for invocation in play.invocations),
            *(each.ended_at or 0.0 for each in play.requests),
        ]
    )


def _rect(kind: str, x: float, y: float, width: float, height: float) -> str:
    shown = f'x="{x:.1f}" y="{y:g}" width="{max(width, 0):.1f}" height="{height:g}"'
    return f'<rect class="{kind}" {shown} rx="{min(3, height / 2):g}"/>'


def _text(x: float, y: float, text: str, kind: str) -> str:
    return f'<text class="{kind or "plain"}" x="{x:g}" y="{y:g}">{escape(text)}</text>'
