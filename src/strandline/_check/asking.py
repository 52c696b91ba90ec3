"""`Asker`: sends probes to a server and takes what comes of each as a value. It judges nothing."""

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
class Told:
    """An answer; `probe` is None if no probe has given it."""

    label: str
    text: str
    probe: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class NotTaken:
    """The server refused the request; `retry_after`: it said when to come back."""

    label: str
    why: str
    retry_after: bool = False


@dataclass(frozen=True, slots=True)
class NotAnswered:
    """The request failed, or nothing came within the patience."""

    label: str
    why: str


@dataclass(frozen=True, slots=True)
class Gone:
    """Nobody answers at the address."""

    label: str
    why: str


Came = Told | NotTaken | NotAnswered | Gone
_Kinds = type[NotTaken] | tuple[type[NotTaken], type[NotAnswered], type[Gone]]


class Asker:
    """A server, asked through an adapter. Belongs to the loop that it was made in; close it."""

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
        """Return whether the server says in its health that it serves another agent than the probe."""
        try:
            response = await self._client.get(f"{self.url}/health")
            health = response.json()
        except (httpx.HTTPError, ValueError):
            return False
        return isinstance(health, dict) and health.get("probe") is False

    async def ask(self, session: str, label: str, *, wait_s: float = 0.0, fail: bool = False) -> Came:
        """Send one probe and return what came of it. Cancelling it drops the connection."""
        question: dict[str, Any] = {"session": session, "label": label, "wait": wait_s}
        if fail:
            question["fail"] = True
        text = f"probe {json.dumps(question)}"
        try:
            async with asyncio.timeout(self._patience_s):
                told = await self._ask(self._client, self.url, session, text)
        except TimeoutError:
            return NotAnswered(label, f"no answer within {self._patience_s:g} s")
        except Refused as error:
            return NotTaken(label, str(error))
        except httpx.HTTPStatusError as error:
            return _by_status(label, error.response)
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return Gone(label, str(error) or type(error).__name__)
        except Exception as error:
            return NotAnswered(label, f"{type(error).__name__}: {error}".rstrip(": "))
        return Told(label, told, _probe(told))

    async def back(self, session: str, label: str, within_s: float) -> Came:
        """Ask until somebody answers again, or the time is up; return what came last."""
        return await self._again(session, label, within_s, (NotTaken, NotAnswered, Gone))

    async def taken(self, session: str, label: str, within_s: float) -> Came:
        """Ask, and again as long as it is refused, until the time is up; return what came last."""
        return await self._again(session, label, within_s, NotTaken)

    async def _again(self, session: str, label: str, within_s: float, unless: _Kinds) -> Came:
        end = time.monotonic() + within_s
        while True:
            came = await self.ask(session, label)
            if not isinstance(came, unless) or time.monotonic() > end:
                return came
            await asyncio.sleep(0.2)


def _by_status(label: str, response: httpx.Response) -> Came:
    try:
        body = response.json()
    except ValueError:
        body = None
    detail = body.get("detail") or body.get("error") or "" if isinstance(body, dict) else ""
    why = f"{response.status_code} {detail}".strip()
    if response.status_code in NOT_NOW:
        return NotTaken(label, why, "retry-after" in response.headers)
    return NotAnswered(label, why)


def _probe(text: str) -> dict[str, Any] | None:
    start, end = text.find('{"probe"'), text.rfind("}")
    if start < 0:
        return None
    try:
        found = json.loads(text[start : end + 1])
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
