"""`/metrics`, for Prometheus. It never waits for user code, and at most half a second for a disk."""

from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response


class Scraped(Protocol):
    """The source of metrics."""

    async def scrape(self, accept: str) -> tuple[bytes, str]:
        """Return all metrics and their media type; `accept` is the client's header."""
        ...


class Metrics:
    """The route of metrics."""

    def __init__(self, scraped: Scraped) -> None:
        self._scraped = scraped

    async def metrics(self, request: Request) -> Response:
        """Return all metrics. They name no session, run or caller."""
        body, media_type = await self._scraped.scrape(request.headers.get("accept", ""))
        return Response(body, headers={"Content-Type": media_type, "Cache-Control": "no-store"})
