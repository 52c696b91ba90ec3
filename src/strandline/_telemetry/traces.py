"""Traces: a run as OpenTelemetry spans, in the trace of its request.

Only the API is used, which does nothing unless the surrounding program has set up an SDK. Without an SDK a run's
carrier is still stored and made current for its agent, so that a tool that calls another server can pass the trace on.

`strandline.run` is a child of the request's span. It starts when the run is accepted, or resumed, always with the same
parent: all attempts share one trace, in any process. Its children are `strandline.wait`, `strandline.execute` (the
parent of the agent's own spans) and `strandline.commit`. A request without a trace starts one, with
`strandline.accept`. Spans are created when they are needed: a waiting run has none.
"""

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Final

from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, attach, get_current
from opentelemetry.propagate import get_global_textmap
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import TextMapPropagator
from opentelemetry.trace import (
    NonRecordingSpan,
    NoOpTracerProvider,
    ProxyTracerProvider,
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    Tracer,
    get_current_span,
    get_tracer_provider,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from strandline import __version__
from strandline._engine.observers import UNTRACED_RUN, TracedRun, Tracing
from strandline._model import Carrier, Claim, Outcome, Run, RunStatus
from strandline.errors import StrandlineError

LONGEST: Final = 1024
"""Maximum length of a header in characters; longer ones are ignored."""
XRAY: Final = "x-amzn-trace-id"
_NO_SDK: Final = frozenset({ProxyTracerProvider, NoOpTracerProvider})
"""The providers without an SDK."""

Headers = Iterable[tuple[bytes, bytes]]
_NOTHING: Final = nullcontext()
_HEADERS: ContextVar[Headers] = ContextVar("strandline_headers", default=())


class Traces(Tracing):
    """Traces the runs of a service."""

    def __init__(self) -> None:
        self._tracer: Tracer = trace.get_tracer("strandline", __version__)
        self._propagator = CompositePropagator([TraceContextTextMapPropagator(), W3CBaggagePropagator()])
        self._global_propagator: TextMapPropagator | None = None
        self._names: frozenset[bytes] = frozenset()

    @property
    def active(self) -> bool:
        """Whether an SDK is set up."""
        return type(get_tracer_provider()) not in _NO_SDK

    # -- a request ---------------------------------------------------------------------------------

    def arrived(self, headers: Headers) -> None:
        """Remember the headers of the request that the current task answers."""
        _HEADERS.set(headers)

    def request_trace(self) -> AbstractContextManager[Carrier | None]:
        """Return the trace of the current request: that of the current span, else of its headers."""
        context = get_current()
        if not _span_context(context).is_valid:
            context = self._from_headers()
        if context and _span_context(context).is_valid:
            return nullcontext(self._carrier(context))
        return self._accepting() if self.active else _NOTHING

    @contextmanager
    def _accepting(self) -> Iterator[Carrier]:
        """Start a trace for a request without one."""
        span = self._tracer.start_span("strandline.accept", Context(), SpanKind.SERVER)
        try:
            yield self._carrier(set_span_in_context(span, Context()))
        except StrandlineError as error:
            _failed(span, error.code)
            raise
        finally:
            span.end()

    def _from_headers(self) -> Context:
        """Return the context in the headers, read with the propagator of this program; empty if there is none."""
        read_as = get_global_textmap()
        if read_as is not self._global_propagator:
            self._global_propagator = read_as
            self._names = frozenset(name.lower().encode() for name in (*read_as.fields, XRAY))
        found: Carrier = {}
        for raw, value in _HEADERS.get():
            if raw in self._names and len(value) <= LONGEST:
                name, text = raw.decode("ascii"), value.decode("latin-1")
                # Several headers of one name are one list; for a header that is not a list the result is invalid.
                found[name] = f"{found[name]},{text}" if name in found else text
        if not found:
            return Context()
        context = read_as.extract(found, Context())
        if not _span_context(context).is_valid and XRAY in found:
            return _of_xray(found[XRAY], context)
        return context

    def _carrier(self, context: Context) -> Carrier:
        carrier: Carrier = {}
        self._propagator.inject(carrier, context)
        return {name: value for name, value in carrier.items() if len(value) <= LONGEST}

    # -- a run -------------------------------------------------------------------------------------

    def begun(self, claim: Claim, now: float, *, again: bool) -> TracedRun:
        """Start the spans of an attempt; for a run's first start, also the span of its wait."""
        run, active = claim.run, self.active
        if not active and run.trace is None:
            return UNTRACED_RUN
        parent = self._parent(run)
        if not active:
            attach(parent)  # (in the run's own task, which ends with the run)
            return UNTRACED_RUN
        span = self._span(run, parent, now if again else run.created_at)
        context = set_span_in_context(span, parent)
        if not again:
            self._part("wait", context, run.created_at).end(_ns(now))
        return _Attempt(self._tracer, span, context)

    def ended(self, run: Run, outcome: Outcome, now: float) -> None:
        """Record a run that ended while it waited, or with the process that executed it."""
        if not self.active:
            return
        span = self._span(run, parent := self._parent(run), run.created_at if run.attempt == 0 else now)
        if run.attempt == 0:
            self._part("wait", set_span_in_context(span, parent), run.created_at).end(_ns(now))
        _record(span, outcome)
        span.end(_ns(now))

    # -- to another process ------------------------------------------------------------------------

    def carried(self) -> Carrier | None:
        """Return a carrier with which another process joins the current span; None if there is none."""
        context = get_current()
        return self._carrier(context) if _span_context(context).is_valid else None

    def join(self, carrier: Carrier) -> None:
        """Make the carrier's span the current one, for the current task."""
        attach(self._propagator.extract(carrier, Context()))

    def _parent(self, run: Run) -> Context:
        return self._propagator.extract(run.trace or {}, Context())

    def _span(self, run: Run, parent: Context, since: float) -> Span:
        about: dict[str, str | int] = {
            "strandline.run_id": run.run_id,
            "strandline.session_id": run.key.session_id,
            "strandline.attempt": run.attempt,
        }
        return self._tracer.start_span("strandline.run", parent, SpanKind.CONSUMER, about, start_time=_ns(since))

    def _part(self, name: str, context: Context, since: float) -> Span:
        return self._tracer.start_span(f"strandline.{name}", context, start_time=_ns(since))


class _Attempt(TracedRun):
    """The spans of one attempt."""

    __slots__ = ("_context", "_part", "_span", "_tracer")

    def __init__(self, tracer: Tracer, span: Span, context: Context) -> None:
        self._tracer = tracer
        self._span = span
        self._context = context
        self._part: Span | None = None

    def executes(self) -> None:
        """Start the span of the agent's work, and make it current."""
        self._part = self._tracer.start_span("strandline.execute", self._context)
        attach(set_span_in_context(self._part, self._context))

    def finishes(self) -> None:
        """Start the span in which the journal stores the end. May be called again."""
        if self._part is not None:
            self._part.end()
        self._part = self._tracer.start_span("strandline.commit", self._context)

    def ended(self, outcome: Outcome | None) -> None:
        """End all spans."""
        if self._part is not None:
            self._part.end()
        _record(self._span, outcome)
        self._span.end()


def _record(span: Span, outcome: Outcome | None) -> None:
    """Record how a run ended, but no text of messages or exceptions."""
    span.set_attribute("strandline.status", RunStatus.QUEUED if outcome is None else outcome.status.value)
    if outcome is not None and outcome.error is not None:
        _failed(span, outcome.error.code.value)


def _failed(span: Span, code: str) -> None:
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR, code))


def _span_context(context: Context) -> SpanContext:
    return get_current_span(context).get_span_context()


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)


def _of_xray(header: str, context: Context) -> Context:
    """Return the context in AWS's header: `Root=1-5759e988-bd862e3fe1be46a994272793;Parent=53995c3f42cd8ad8;Sampled=1`.

    A header without a parent names no span, and is ignored.
    """
    fields = dict(each.strip().partition("=")[::2] for each in header.split(";"))
    version, _, root = fields.get("Root", "").partition("-")
    try:
        trace_id, span_id = int(root.replace("-", "", 1), 16), int(fields.get("Parent", ""), 16)
    except ValueError:
        return context
    flags = TraceFlags(TraceFlags.SAMPLED if fields.get("Sampled") == "1" else TraceFlags.DEFAULT)
    remote = SpanContext(trace_id, span_id, is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(remote), context) if version == "1" and remote.is_valid else context
