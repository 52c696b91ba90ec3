"""`Asker`: sends probes to a server, and returns the result of each as a value. It judges nothing."""

import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any, Final

import httpx

from strandline._check.adapters import Ask, Refused
from strandline.client._transport import is_loopback

NOT_NOW: Final = frozenset({409, 429, 503})


@dataclass(frozen=True, slots=True)
class Answered:
    """An answer; `probe` is None if it is not the probe's."""

    label: str
    text: str
    probe: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class Rejected:
    """The server refused the request; `retry_after`: it said when to come back."""

    label: str
    why: str
    retry_after: bool = False


@dataclass(frozen=True, slots=True)
class Unanswered:
    """The request failed, or nothing came within the patience."""

    label: str
    why: str


@dataclass(frozen=True, slots=True)
class Unreachable:
    """Nothing listens at the address."""

    label: str
    why: str


Reply = Answered | Rejected | Unanswered | Unreachable
_Kinds = type[Rejected] | tuple[type[Rejected], type[Unanswered], type[Unreachable]]


class Asker:
    """A server, called through an adapter. Belongs to the loop that it was made in; close it."""

    def __init__(self, url: str, ask: Ask, *, patience_s: float, key: str | None = None) -> None:
        self.url = url
        self._ask = ask
        self._patience_s = patience_s
        self._client = httpx.AsyncClient(
            headers={} if key is None else {"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(patience_s, connect=10.0),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
            trust_env=not is_loopback(url),
            follow_redirects=True,
        )

    async def close(self) -> None:
        """Close all connections."""
        await self._client.aclose()

    async def announces_another_agent(self) -> bool:
        """Return whether the server reports in its health that it does not serve the probe."""
        try:
            response = await self._client.get(f"{self.url}/health")
            health = response.json()
        except (httpx.HTTPError, ValueError):
            return False
        return isinstance(health, dict) and health.get("probe") is False

    async def ask(self, session: str, label: str, *, wait_s: float = 0.0, fail: bool = False) -> Reply:
        """Send one probe and return its result. Cancelling this drops the connection."""
        question: dict[str, Any] = {"session": session, "label": label, "wait": wait_s}
        if fail:
            question["fail"] = True
        text = f"probe {json.dumps(question)}"
        try:
            async with asyncio.timeout(self._patience_s):
                reply = await self._ask(self._client, self.url, session, text)
        except TimeoutError:
            return Unanswered(label, f"no answer within {self._patience_s:g} s")
        except Refused as error:
            return Rejected(label, str(error))
        except httpx.HTTPStatusError as error:
            return _by_status(label, error.response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Unreachable(label, str(error) or type(error).__name__)
        except Exception as error:
            return Unanswered(label, f"{type(error).__name__}: {error}".rstrip(": "))
        return Answered(label, reply, _probe(reply))

    async def back(self, session: str, label: str, within_s: float) -> Reply:
        """Send probes until one is answered, or the time is up; return the last result."""
        return await self._again(session, label, within_s, (Rejected, Unanswered, Unreachable))

    async def taken(self, session: str, label: str, within_s: float) -> Reply:
        """Send probes while the server refuses them, until the time is up; return the last result."""
        return await self._again(session, label, within_s, Rejected)

    async def _again(self, session: str, label: str, within_s: float, unless: _Kinds) -> Reply:
        end = time.monotonic() + within_s
        while True:
            came = await self.ask(session, label)
            if not isinstance(came, unless) or time.monotonic() > end:
                return came
            await asyncio.sleep(0.2)


def _by_status(label: str, response: httpx.Response) -> Reply:
    try:
        body = response.json()
    except ValueError:
        body = None
    detail = body.get("detail") or body.get("error") or "" if isinstance(body, dict) else ""
    why = f"{response.status_code} {detail}".strip()
    if response.status_code in NOT_NOW:
        return Rejected(label, why, "retry-after" in response.headers)
    return Unanswered(label, why)


def _probe(text: str) -> dict[str, Any] | None:
    start, end = text.find('{"probe"'), text.rfind("}")
    if start < 0:
        return None
    try:
        found = json.loads(text[start : end + 1])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
