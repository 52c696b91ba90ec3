"""Which requests a server takes for those of a foreign page: by its Host, its Origin and what a browser says of it."""

from typing import Any, Final

import pytest

from strandline._http.middleware.guard import EXEMPT, Guard
from strandline._settings import AppSettings

OURS: Final = ("localhost", "LOCALHOST:8080", "127.0.0.1", "127.0.0.1:9", "[::1]", "[::1]:8080", "localhost:")
ADDRESSES: Final = ("10.0.0.5", "192.168.1.7:8080", "[fe80::1]:80", "[2001:db8::1]", "127.0.0.2")
FOREIGN: Final = (
    "evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example", "[::1].evil.example",
    "[::1].evil.example:8080", "[::1]evil", "[::1", "::1", "fe80::1", "10.0.0.5.evil.example", "10.0.0", "2130706433",
    "0x7f000001", "10.0.0.5:80:80", "localhost:80:evil", "localhost:evil", "localhost@evil.example", "[10.0.0.5]",
    "evil@10.0.0.5", "10.0.0.5/", "agent", "",
)  # fmt: skip


def scope(
    *headers: tuple[str, str], path: str = "/chat", method: str = "POST", server: str = "10.0.0.5"
) -> dict[str, Any]:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return {"type": "http", "method": method, "path": path, "headers": raw, "server": (server, 80)}


def answers(guard: Guard, host: str, **more: Any) -> bool:
    return guard.refusal(scope(("Host", host), **more)) is None


def test_without_keys_a_server_beyond_loopback_answers_to_addresses_localhost_and_the_names_that_are_allowed() -> None:
    """A page can point a name of its own at the address of a container, and never an address."""
    guard = Guard(AppSettings(allowed_hosts=["agent.example", "odd.example:99"]), loopback=False)
    for host in (*OURS, *ADDRESSES, "agent.example", "Agent.Example:8080", "odd.example:99"):
        assert answers(guard, host), host
    for host in (*FOREIGN, "odd.example", "not.agent.example"):
        assert not answers(guard, host), host
        for path in EXEMPT:
            assert answers(guard, host, path=path), "probes are asked under any name"
    bare = Guard(AppSettings(), loopback=False)
    assert all(answers(bare, host) for host in (*OURS, *ADDRESSES))
    assert not any(answers(bare, host) for host in (*FOREIGN, "agent.example"))


def test_on_loopback_a_server_answers_to_its_own_names_and_those_that_are_allowed() -> None:
    guard = Guard(AppSettings(allowed_hosts=["agent.example"]), loopback=True)
    assert all(answers(guard, host) for host in (*OURS, "agent.example:8080"))
    assert not any(answers(guard, host) for host in (*FOREIGN, *ADDRESSES))


def test_with_keys_a_server_beyond_loopback_checks_names_only_if_some_are_allowed() -> None:
    assert all(answers(Guard(AppSettings(), loopback=False, keys=True), host) for host in (*OURS, *ADDRESSES, *FOREIGN))
    named = Guard(AppSettings(allowed_hosts=["strandline"]), loopback=False, keys=True)
    assert all(answers(named, host) for host in (*OURS, *ADDRESSES, "strandline:8080")), "a pod is asked by its address"
    assert not any(answers(named, host) for host in FOREIGN)


def test_probes_answer_under_any_name_and_know_whether_it_is_the_servers() -> None:
    """Kubernetes asks a pod by its address, a load balancer by any name or none."""
    beyond = Guard(AppSettings(allowed_hosts=["agent.example"]), loopback=False)
    assert all(beyond.is_named(scope(("Host", host))) for host in (*OURS, *ADDRESSES, "agent.example"))
    assert not any(beyond.is_named(scope(("Host", host))) for host in FOREIGN)
    assert not beyond.is_named(scope())
    assert not beyond.is_named(scope(("Host", "localhost"), ("Host", "localhost")))
    local = Guard(AppSettings(), loopback=True)
    assert all(local.is_named(scope(("Host", host))) for host in OURS)
    assert not any(local.is_named(scope(("Host", host))) for host in (*FOREIGN, *ADDRESSES))
    assert Guard(AppSettings(), loopback=False, keys=True).is_named(scope(("Host", "any.example"))), (
        "where no name is refused anywhere"
    )


def test_in_a_server_of_somebody_else_each_request_says_where_it_came_in() -> None:
    guard = Guard(AppSettings(), loopback=None)
    for local in ("127.0.0.1", "::1", "::ffff:127.0.0.1"):
        assert all(answers(guard, host, server=local) for host in OURS)
        assert not any(answers(guard, host, server=local) for host in FOREIGN)
    assert all(answers(guard, host) for host in (*OURS, *FOREIGN))
    named = Guard(AppSettings(allowed_hosts=["agent.example"]), loopback=None)
    assert not any(answers(named, host) for host in FOREIGN)


def test_a_star_answers_to_every_name_and_to_no_more_origins() -> None:
    for loopback in (True, False, None):
        guard = Guard(AppSettings(allowed_hosts=["*"]), loopback=loopback)
        assert all(answers(guard, host) for host in (*OURS, *ADDRESSES, *FOREIGN))
        assert guard.refusal(scope(("Host", "a.example"), ("Origin", "https://evil.example"))) is not None


def test_a_refusal_of_a_host_says_how_to_allow_it() -> None:
    guard = Guard(AppSettings(), loopback=False)
    error = guard.refusal(scope(("Host", "agent:8080")))
    assert error is not None
    assert "names agent:8080" in error
    assert error.endswith("set STRANDLINE_ALLOWED_HOSTS=agent")
    error = guard.refusal(scope(("Host", "x; rm -rf /")))
    assert error is not None
    assert error.endswith("set allowed_hosts"), "nothing to be pasted that a stranger has written"
    assert guard.refusal(scope(("Host", "localhost"), ("Host", "localhost"))) == "the request has two Host headers"
    assert guard.refusal(scope(("Host", ""), ("Host", "localhost"))) == "the request has two Host headers"
    assert guard.refusal(
        scope(("Origin", "http://evil.example"), ("Host", "localhost"), ("Origin", "http://localhost"))
    )


CROSS: Final = ("Sec-Fetch-Site", "cross-site")
NAVIGATE: Final = ("Sec-Fetch-Mode", "navigate")
ALLOWED: Final = ("Origin", "https://app.example")


@pytest.mark.parametrize("loopback", [True, False, None])
@pytest.mark.parametrize("keys", [True, False])
def test_a_page_of_another_site_is_refused_unless_its_origin_is_allowed_or_it_links_to_a_page(
    loopback: bool | None, keys: bool
) -> None:
    guard = Guard(AppSettings(cors_origins=["https://app.example"]), loopback=loopback, keys=keys)

    def passes(*headers: tuple[str, str], **more: str) -> bool:
        return guard.refusal(scope(("Host", "127.0.0.1:8080"), *headers, **more)) is None

    for path in ("/chat", "/history", "/v1/sessions", "/openapi.json", "/metrics"):
        for method in ("GET", "POST"):
            assert not passes(CROSS, path=path, method=method)
            assert not passes(CROSS, NAVIGATE, path=path, method=method), "no form, and no download"
            assert not passes(("Sec-Fetch-Site", "none"), CROSS, path=path, method=method)
            assert passes(CROSS, ALLOWED, path=path, method=method)
            assert passes(CROSS, ("Origin", "http://127.0.0.1:8080"), path=path, method=method)
            assert not passes(CROSS, ("Origin", "https://evil.example"), path=path, method=method)
            for site in ("same-origin", "same-site", "none", "whatever"):
                assert passes(("Sec-Fetch-Site", site), path=path, method=method)
    for page in ("/docs", "/", "/console"):
        assert passes(CROSS, NAVIGATE, path=page, method="GET"), "a link"
        assert not passes(CROSS, NAVIGATE, path=page, method="POST")
        assert not passes(CROSS, ("Sec-Fetch-Mode", "no-cors"), path=page, method="GET")
    assert passes(CROSS, ("Origin", "null"), path="/health", method="GET")
