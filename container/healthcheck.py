"""The image's health check: exit 0 if the server takes requests or stops, 1 with the reason if it starts or is silent.

It asks /readyz, whose answer says which of these it is: a container that is healthy has been ready, and one that drains
stays healthy, since nobody shall end it for that. Needs only the standard library, and little of it, for it is started
every few seconds for a year: `http.client` would nearly double the processor time that it takes.
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
    """Ask the server on this container's own port."""
    try:
        with open(FIRST, errors="replace") as file:
            arguments = file.read().split("\0")
    except OSError:
        arguments = []
    is_well, reason = look(port_of(arguments, os.environ))
    sys.stdout.write(f"/readyz: {reason}\n")
    return 0 if is_well else 1


def port_of(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Return where the server listens: an option behind the image's name counts before the environment."""
    port = environment.get("STRANDLINE_PORT") or environment.get("PORT") or "8080"
    for option, value in pairwise([*arguments, ""]):
        if option == "--port":
            port = value
        elif option.startswith("--port="):
            port = option.partition("=")[2]
    return int(port)


def look(port: int) -> tuple[bool, str]:
    """Return whether the server is well, and what it says."""
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
