"""The image's health check: exit 0 if the server is ready or draining, 1 with the reason if it starts or is silent.

It requests /readyz. A container becomes healthy when the server is ready, and stays healthy while it drains, so that
nothing kills it for that. It uses little of the standard library, since it runs every few seconds for a year:
`http.client` would nearly double its processor time.
"""

import os
import socket
import sys
from collections.abc import Mapping
from itertools import pairwise
from typing import Final

FIRST: Final = "/proc/1/cmdline"
REQUEST: Final = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
ANSWER_S: Final = 2.0
MOST_BYTES: Final = 65_536


def main() -> int:
    """Request /readyz on the container's own port."""
    try:
        with open(FIRST, errors="replace") as file:
            arguments = file.read().split("\0")
    except OSError:
        arguments = []
    is_well, reason = look(port_of(arguments, os.environ))
    sys.stdout.write(f"/readyz: {reason}\n")
    return 0 if is_well else 1


def port_of(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Return the server's port: an option after the image's name wins over the environment."""
    port = environment.get("STRANDLINE_PORT") or environment.get("PORT") or "8080"
    for option, value in pairwise([*arguments, ""]):
        if option == "--port":
            port = value
        elif option.startswith("--port="):
            port = option.partition("=")[2]
    return int(port)


def look(port: int) -> tuple[bool, str]:
    """Return whether the server is healthy, and its answer."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_S) as connection:
            connection.sendall(REQUEST)
            with connection.makefile("rb") as answer:
                head, _, body = answer.read(MOST_BYTES).partition(b"\r\n\r\n")
    except OSError as error:
        return False, str(error)
    text = body.decode(errors="replace")
    return head.split()[1:2] == [b"200"] or '"draining"' in text, text


if __name__ == "__main__":
    sys.exit(main())
