"""An SVG picture in the style that all pictures share. Knows shapes and words, and nothing of what they mean."""

from typing import Final
from xml.sax.saxutils import escape

WIDTH: Final = 640
CHARACTER: Final = 7.9
"""How wide a character of the usual size is at most, in most fonts, in units of the picture."""

STYLE: Final = """
text { font: 15px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2933; }
.small { font-size: 13px; fill: #52606d; }
.strong { font-weight: 600; }
.ground { fill: #fbfcfd; stroke: #d5dbe1; }
.box { fill: #fff; stroke: #7b8794; stroke-width: 1.5; }
.own { fill: #d9f2ee; stroke: #00796b; stroke-width: 1.5; }
.good { fill: #dcf3e0; stroke: #2e7d32; stroke-width: 1.5; }
.bad { fill: #fde3e1; stroke: #c62828; stroke-width: 1.5; }
.ask { fill: #fff1d6; stroke: #b26a00; stroke-width: 1.5; }
.wait { fill: #e4e8ec; stroke: #9aa5b1; }
.work { fill: #00897b; stroke: #00695c; }
.work2 { fill: #5c6bc0; stroke: #3949ab; }
.work3 { fill: #c77700; stroke: #a86400; }
.line { fill: none; stroke: #52606d; stroke-width: 1.6; }
.dashed { stroke-dasharray: 5 4; }
.faint { fill: none; stroke: #e4e8ec; }
.tip { fill: #52606d; }
.on { fill: #fff; }
@media (prefers-color-scheme: dark) {
  text { fill: #e4e7eb; }
  .small { fill: #a6b1bd; }
  .ground { fill: #1d222b; stroke: #3a434f; }
  .box { fill: #2a313c; stroke: #8a96a3; }
  .own { fill: #12403b; stroke: #4db6ac; }
  .good { fill: #1c3d22; stroke: #81c784; }
  .bad { fill: #4a2020; stroke: #ef9a9a; }
  .ask { fill: #463412; stroke: #ffcc80; }
  .wait { fill: #343c48; stroke: #616e7c; }
  .work { fill: #26a69a; stroke: #4db6ac; }
  .work2 { fill: #7986cb; stroke: #9fa8da; }
  .work3 { fill: #ffa726; stroke: #ffb74d; }
  .line { stroke: #a6b1bd; }
  .faint { stroke: #343c48; }
  .tip { fill: #a6b1bd; }
  .on { fill: #10151c; }
}
""".strip()

TIP: Final = (
    '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7"'
    ' orient="auto-start-reverse"><path class="tip" d="M0 0 10 5 0 10z"/></marker></defs>'
)


class Drawing:
    """A picture of a height, as wide as all of them. Shapes lie on each other in the order of drawing."""

    def __init__(self, height: int, title: str) -> None:
        self._height = height
        self._title = title
        self._shapes: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, kind: str = "box", radius: float = 8) -> None:
        """Draw a rectangle with round corners."""
        place = f'x="{_n(x)}" y="{_n(y)}" width="{_n(width)}" height="{_n(height)}" rx="{_n(radius)}"'
        self._shapes.append(f'<rect class="{kind}" {place}/>')

    def text(self, x: float, y: float, words: str, kind: str = "", anchor: str = "middle") -> None:
        """Write words whose base line is at `y`."""
        named = f' class="{kind}"' if kind else ""
        self._shapes.append(f'<text{named} x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}">{escape(words)}</text>')

    def named_box(
        self, x: float, y: float, width: float, height: float, words: str, below: str = "", kind: str = "box"
    ) -> None:
        """Draw a rectangle with words in its middle, and smaller ones below them."""
        self.box(x, y, width, height, kind)
        middle = y + height / 2 + (5 if not below else -3)
        self.text(x + width / 2, middle, words, "strong")
        if below:
            self.text(x + width / 2, middle + 18, below, "small")

    def label(self, x: float, y: float, words: str) -> None:
        """Write small words on a patch of ground, so that a line may pass behind them."""
        width = len(words) * CHARACTER * 13 / 15 + 6
        self._shapes.append(
            f'<rect class="ground" style="stroke:none" x="{_n(x - width / 2)}" y="{_n(y - 13)}"'
            f' width="{_n(width)}" height="18"/>'
        )
        self.text(x, y, words, "small")

    def path(self, steps: str, *, arrow: bool = True, kind: str = "line") -> None:
        """Draw a line along the steps of an SVG path, with an arrow at its end."""
        tip = ' marker-end="url(#tip)"' if arrow else ""
        self._shapes.append(f'<path class="{kind}" d="{steps}"{tip}/>')

    def svg(self) -> str:
        """Return the picture as a file's text."""
        title = escape(self._title, {'"': "&quot;"})
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {self._height}" role="img">',
            f"<title>{title}</title>",
            f"<style>\n{STYLE}\n</style>",
            TIP,
            f'<rect class="ground" x=".5" y=".5" width="{WIDTH - 1}" height="{self._height - 1}" rx="10"/>',
            *self._shapes,
            "</svg>\n",
        ]
        return "\n".join(lines)


def _n(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
