"""Exports a server's traces, if OpenTelemetry's own environment variables ask for that.

A program that has set up an SDK itself (`opentelemetry-instrument`, or the agent's module) keeps it.
"""

import logging
import threading
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Final

from opentelemetry.trace import get_tracer_provider, set_tracer_provider

from strandline._telemetry.traces import Traces

_log = logging.getLogger("strandline.traces")

FLUSH_S: Final = 2.0
"""How long a stopping server waits to send its last spans: within the time that Docker leaves after the drain."""
_OTLP: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")


def export_if_wanted(environ: Mapping[str, str], name: str) -> None:
    """Export spans as `environ` says, under the service name `name` unless it has another.

    An exporter that is not installed is logged: missing traces do not keep a server from starting.
    """
    wanted = _wanted(environ)
    if not wanted or Traces().active:
        return
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    is_named = "OTEL_SERVICE_NAME" in environ or "service.name=" in environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    # `flush` is called when the server stops, with a time limit. At exit the SDK would wait for an absent receiver.
    provider = TracerProvider(
        resource=Resource.create({} if is_named else {"service.name": name}), shutdown_on_exit=False
    )
    found = 0
    for each in wanted:
        for entry in entry_points(group="opentelemetry_traces_exporter", name=each):
            provider.add_span_processor(BatchSpanProcessor(entry.load()()))
            found += 1
            break
        else:
            _log.warning(
                "traces are not sent: exporter %s is not installed. Install it: pip install 'strandline[otel]'", each
            )
    if found:
        set_tracer_provider(provider)


def flush(within_s: float = FLUSH_S) -> None:
    """Send the remaining spans, within `within_s` seconds, if there is an SDK."""
    force_flush = getattr(get_tracer_provider(), "force_flush", None)
    if force_flush is None:
        return
    flushing = threading.Thread(target=force_flush, args=(int(within_s * 1000),), name="flush", daemon=True)
    flushing.start()
    flushing.join(within_s)
    if flushing.is_alive():
        _log.warning("the last traces could not be sent within %g s and are lost", within_s)


def _wanted(environ: Mapping[str, str]) -> list[str]:
    """Return the names of the requested exporters, as packages register them."""
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return []
    named = environ.get("OTEL_TRACES_EXPORTER") or ("otlp" if any(map(environ.get, _OTLP)) else "none")
    protocol = next((environ[each] for each in _PROTOCOLS if environ.get(each)), "http/protobuf")
    otlp = "otlp_proto_grpc" if protocol == "grpc" else "otlp_proto_http"
    names = [each.strip() for each in named.split(",")]
    return [otlp if each == "otlp" else each for each in names if each not in ("", "none")]
