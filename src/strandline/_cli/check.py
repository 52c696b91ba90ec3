"""`strandline check`: test what any agent server does when requests overlap."""

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Final

import typer

from strandline._cli import rows, say
from strandline._cli.address import KeyFile, address, api_key
from strandline._cli.complete import ADAPTERS
from strandline._exits import REFUSED

if TYPE_CHECKING:
    from strandline._check.adapters import Ask
    from strandline._check.suite import Finding, Plan

BROKEN: Final = 1
"""The exit code if a promise breaks."""


def check(
    url: Annotated[str, typer.Argument(help="Address of the server.", metavar="URL")],
    adapter: Annotated[
        str,
        typer.Option(
            "--adapter",
            "-a",
            help="Protocol: strandline, original, agentcore, responses, a2a, ag-ui, or a file with a function `ask`.",
            metavar="NAME|FILE",
            autocompletion=ADAPTERS,
        ),
    ] = "strandline",
    restart: Annotated[
        str | None,
        typer.Option(
            help="Shell command that restarts the server; without it, restarts are not tested.", metavar="COMMAND"
        ),
    ] = None,
    flood: Annotated[
        int, typer.Option(help="Requests to send when testing for a queue limit.", metavar="N", min=1, max=5000)
    ] = 300,
    patience: Annotated[float, typer.Option(help="Seconds to wait for an answer.", metavar="S", min=1)] = 60,
    key_file: KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Test what a server does when requests to one conversation overlap, fail or get lost.

    Any server: serve the probe agent there (strandline.testing.probe:make_agent). It
    gets a few hundred requests, in sessions of its own whose names begin with check-.

    Exit code: 0 if all tested promises hold, 1 if one breaks, 2 if one could not be
    tested (the server cannot be reached, or does not serve the probe agent).

    Example: strandline check http://localhost:8080 --adapter original
    """
    with say.errors_reported():
        from strandline._check.adapters import load
        from strandline._check.suite import Plan, Verdict

        ask = load(adapter)
        plan = Plan(restart, flood, patience, api_key(key_file))
        findings = asyncio.run(_examined(address(url), ask, plan, quiet=as_json))
        if as_json:
            from strandline._encoding import encode

            sys.stdout.write(encode(findings).decode() + "\n")
        else:
            rows.show(["PROMISE", "VERDICT", "SEEN"], [[each.name, each.verdict.value, each.seen] for each in findings])
        if any(each.verdict is Verdict.BREAKS for each in findings):
            raise typer.Exit(BROKEN)
        if any(each.tried and each.verdict is Verdict.UNKNOWN for each in findings):
            raise typer.Exit(REFUSED)


async def _examined(url: str, ask: "Ask", plan: "Plan", *, quiet: bool) -> "list[Finding]":
    """Return all findings; on a terminal, show progress."""
    from strandline._check.suite import PROMISES, examine

    console = say.err()
    findings = []
    async for finding in examine(url, ask, plan):
        findings.append(finding)
        if console.is_terminal and not quiet:
            console.print(f"{len(findings)} of {len(PROMISES)}: {finding.name}", style="dim", end="\r", soft_wrap=True)
    if console.is_terminal and not quiet:
        console.print(" " * 40, end="\r")
    return findings
