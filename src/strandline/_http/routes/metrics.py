"""What Prometheus reads: `/metrics`. It waits for no user code, and for a disk half a second at most."""

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response


class Scraped(Protocol):
    """Whoever knows the metrics."""

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics, and their media type; `accept` is what the client would like to have."""
        ...


class Metrics:
    """The route of metrics."""

    def __init__(self, scraped: Scraped) -> None:
        self._scraped = scraped

    async def metrics(self, request: Request) -> Response:
        """Return all metrics. They name no session, no run and no principal."""
        body, media_type = await self._scraped.scrape(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type, "Cache-Control": "no-store"})
