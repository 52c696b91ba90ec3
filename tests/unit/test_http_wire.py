"""What headers mean that clients send and get."""

import json

import pytest
from starlette.requests import Request

from strandline import errors
from strandline._http import wire
from strandline._http.routes.runs import preferred_wait_s


@pytest.mark.parametrize(("seconds", "header"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.2, "2"), (3600.0, "3600")])
def test_retry_after_is_whole_seconds_and_at_least_one(seconds: float, header: str) -> None:
    assert wire.retry_after(seconds) == {"Retry-After": header}


@pytest.mark.parametrize(
    ("sent", "wait_s"),
    [
        ([], None),
        (["wait=0"], 0),
        (["wait=5"], 5),
        (['Wait = "5"'], 5),
        (["wait=300"], 300),
        (["wait=301"], 300),
        (["wait=99999999999999999999"], 300),
        (["respond-async, wait=7"], 7),
        (["respond-async; wait=7"], 7),
        (["respond-async", "wait=7", "wait=9"], 7),
        (["wait"], None),
        (["wait="], None),
        (["wait=-1"], None),
        (["wait=soon"], None),
        (["long-wait=5"], None),
    ],
)
def test_how_long_a_client_prefers_to_wait(sent: list[str], wait_s: int | None) -> None:
    """At most 300 s; the first that says so counts, and what is no number is as good as nothing."""
    headers = [(b"prefer", each.encode()) for each in sent]
    assert preferred_wait_s(Request({"type": "http", "headers": headers})) == wait_s


@pytest.mark.parametrize(
    ("error", "title"),
    [
        (errors.QueueFull("q", retry_after_s=1, position=1, estimated_wait_s=None), "Queue full"),
        (errors.PrincipalFull("p", retry_after_s=1, position=1, estimated_wait_s=None), "Queue full"),
        (errors.StorageFull("s", retry_after_s=1), "Storage full"),
        (errors.HoldsFull("h", retry_after_s=1), "Too many runs still working"),
    ],
)
def test_the_title_of_a_refusal_names_what_is_full(error: errors.Unavailable, title: str) -> None:
    answer = wire.error_response(error)
    assert (answer.status_code, json.loads(bytes(answer.body))["title"]) == (429, title)
