"""Where traces go is what OpenTelemetry's own variables say, and a server never waits for long to send them."""

import logging
import threading
from collections.abc import Iterator

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider
from opentelemetry.util._once import Once

from logged import ours
from strandline._telemetry.export import export_if_wanted, flush


@pytest.fixture(autouse=True)
def no_provider(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have no SDK, and have one that is set up go again with the test."""
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", None)
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER_SET_ONCE", Once())
    yield
    if isinstance(provider := get_tracer_provider(), TracerProvider):
        provider.shutdown()


def service_name() -> object:
    provider = get_tracer_provider()
    assert isinstance(provider, TracerProvider)
    return provider.resource.attributes["service.name"]


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
        {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "console"},
        {"OTEL_SERVICE_NAME": "me"},
    ],
)
def test_nothing_is_sent_unless_somebody_says_where_to(
    variables: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    export_if_wanted(variables, "s")
    flush()
    assert isinstance(get_tracer_provider(), ProxyTracerProvider)
    assert ours(caplog) == []


def test_the_server_goes_by_its_own_name_unless_it_has_another(monkeypatch: pytest.MonkeyPatch) -> None:
    export_if_wanted({"OTEL_TRACES_EXPORTER": "console"}, "mine")
    assert service_name() == "mine"


def test_the_variables_name_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "theirs")
    export_if_wanted({"OTEL_TRACES_EXPORTER": "console", "OTEL_SERVICE_NAME": "theirs"}, "mine")
    assert service_name() == "theirs"


def test_an_sdk_that_is_there_is_left_alone() -> None:
    theirs = TracerProvider(shutdown_on_exit=False)
    trace.set_tracer_provider(theirs)
    export_if_wanted({"OTEL_TRACES_EXPORTER": "console"}, "mine")
    assert get_tracer_provider() is theirs


@pytest.mark.parametrize(
    ("variables", "missing"),
    [
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "otlp_proto_grpc"),
        ({"OTEL_TRACES_EXPORTER": "what"}, "what"),
    ],
)
def test_a_missing_exporter_is_logged(
    variables: dict[str, str], missing: str, caplog: pytest.LogCaptureFixture
) -> None:
    """And the server starts: nobody is to be refused because nobody can watch."""
    export_if_wanted(variables, "s")
    [record] = ours(caplog)
    assert record.getMessage() == (
        f"traces are not sent: exporter {missing} is not installed. Install it: pip install 'strandline[otel]'"
    )
    assert isinstance(get_tracer_provider(), ProxyTracerProvider)


def test_a_receiver_that_does_not_answer_keeps_no_server_from_leaving(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    answers, exported = threading.Event(), threading.Event()

    class Stuck(TracerProvider):
        def force_flush(self, timeout_millis: int = 30000) -> bool:
            exported.set()
            return answers.wait(20)

    trace.set_tracer_provider(Stuck(shutdown_on_exit=False))
    with caplog.at_level(logging.WARNING):
        flush(within_s=0.01)
    assert exported.wait(20)
    assert "could not be sent" in caplog.text
    answers.set()
