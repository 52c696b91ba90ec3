"""The image's health check: exit 0 if the server takes requests or stops, 1 with the reason if it starts or is silent.

It asks /readyz, whose answer says which of these it is: a container that is healthy has been ready, and one that drains
stays healthy, since nobody shall end it for that. Needs only the standard library: it is started every few seconds.
"""

import http.client
import os
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Final

FIRST: Final = Path("/proc/1/cmdline")
ANSWER_S: Final = 2.0


def main() -> int:
    """Ask the server on this container's own port."""
    try:
        arguments = FIRST.read_text(errors="replace").split("\0")
    except OSError:
        arguments = []
    is_well, told = look(port_of(arguments, os.environ))
    sys.stdout.write(f"/readyz: {told}\n")
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
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        told = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as error:
        return False, str(error)
    finally:
        connection.close()
    return answer.status == 200 or '"draining"' in told, told


if __name__ == "__main__":
    sys.exit(main())
