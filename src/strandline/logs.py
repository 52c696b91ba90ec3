"""Where a server's log goes: to the standard error output, as lines of text."""

import logging
import sys


def log_to_stderr(*, verbose: bool = False) -> None:
    """Log warnings of everybody and what Strandline does; with `verbose`, more of both."""
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        stream=sys.stderr,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("strandline").setLevel(logging.DEBUG if verbose else logging.INFO)
    # Of a stream that is closed in its middle, as that of a cancelled run may be, Strands leaves the inner parts to the
    # garbage collector, and OpenTelemetry tells, with a traceback, that its context was not left where it was entered.
    for name in ("strands", "opentelemetry.context"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.CRITICAL)
