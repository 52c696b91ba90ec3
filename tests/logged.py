"""The log records of Strandline alone: asyncio may at any time report a task that another test left behind."""

import logging

import pytest


def ours(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the records of loggers of ours."""
    return [each for each in caplog.records if each.name.split(".")[0] == "strandline"]
