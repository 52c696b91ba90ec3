"""What was logged by code of ours: a task that another test has left may be collected at any time, and is told of."""

import logging

import pytest


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records of loggers of ours."""
    return [each for each in caplog.records if each.name.split(".")[0] == "strandline"]
