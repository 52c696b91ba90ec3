"""The image's health check: exit 0 if the server answers /livez, else 1 with the reason.

Needs only the standard library, since it starts a process every few seconds.
"""

import http.client
import os
import sys


def main() -> int:
    """Ask the server on this container's own port."""
    connection = http.client.HTTPConnection("127.0.0.1", int(os.environ.get("PORT") or "8080"), timeout=2)
    try:
        connection.request("GET", "/livez")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        sys.stdout.write(f"/livez: {error}\n")
        return 1
    finally:
        connection.close()
    sys.stdout.write(f"/livez: {status}\n")
    return 0 if status == 200 else 1


if __name__ == "__main__":
    sys.exit(main())
