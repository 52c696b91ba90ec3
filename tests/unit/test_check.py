"""`strandline check`: when a request counts as lost by a restart."""

import asyncio
from typing import Any

import pytest

from strandline._check import suite
from strandline._check.asking import Answered, Reply
from strandline._check.suite import Finding, Plan, Verdict


class Answering:
    """Answers whatever it is asked."""

    async def ask(self, session: str, label: str) -> Reply:
        """Return an answer."""
        return Answered(label, label, {"before": ["remember"], "sound": True})


@pytest.mark.parametrize(
    ("arrives_s", "tries", "verdict"), [(0.0, 1, Verdict.HOLDS), (1.0, 2, Verdict.HOLDS), (9.0, 2, Verdict.BREAKS)]
)
def test_what_seems_lost_gets_two_seconds_to_arrive_in_another_session(
    arrives_s: float, tries: int, verdict: Verdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions: list[str] = []

    async def restarted(given: Any, command: str, session: str, queued: str, gap_s: float) -> tuple[Reply, Finding]:
        sessions.append(queued)
        found = Verdict.HOLDS if arrives_s <= gap_s else Verdict.BREAKS
        return await Answering().ask(session, "after"), Finding("accepted", "", found, "")

    monkeypatch.setattr(suite._Suite, "_restart", restarted)
    findings = asyncio.run(suite._Suite(Answering(), Plan(restart="true")).restart())  # type: ignore[arg-type]
    assert [each.verdict for each in findings] == [Verdict.HOLDS, verdict]
    assert len(set(sessions)) == len(sessions) == tries
