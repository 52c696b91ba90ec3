"""`python -m tools.pictures` writes every picture to `docs/pictures`."""

from pathlib import Path
from typing import Final

from tools.pictures import hold, life_of_a_run, peers, policies, queue, servers, way_of_a_request, window

FOLDER: Final = Path(__file__).parents[2] / "docs" / "pictures"
PICTURES: Final = {
    "hold.svg": hold.draw,
    "life-of-a-run.svg": life_of_a_run.draw,
    "peers.svg": peers.draw,
    "policies.svg": policies.draw,
    "queue.svg": queue.draw,
    "servers.svg": servers.draw,
    "way-of-a-request.svg": way_of_a_request.draw,
    "window.svg": window.draw,
}

if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, draw in PICTURES.items():
        (FOLDER / name).write_text(draw())
