"""`strandline check`: try what any server of an agent does when requests meet."""

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
"""The exit code if something breaks."""


def check(
    url: Annotated[str, typer.Argument(help="Address of the server.", metavar="URL")],
    adapter: Annotated[
        str,
        typer.Option(
            "--adapter",
            "-a",
            help="How it is asked: strandline, original, agentcore, a2a, ag-ui, or a file with a function `ask`.",
            metavar="NAME|FILE",
            autocompletion=ADAPTERS,
        ),
    ] = "strandline",
    restart: Annotated[
        str | None,
        typer.Option(help="Shell command that restarts it; without one a restart is not tried.", metavar="COMMAND"),
    ] = None,
    flood: Annotated[
        int, typer.Option(help="Requests that try whether there is a bound.", metavar="N", min=1, max=5000)
    ] = 300,
    patience: Annotated[float, typer.Option(help="Seconds to wait for an answer.", metavar="S", min=1)] = 60,
    key_file: KeyFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Try what a server does when requests to one conversation meet, fail or are lost.

    Any server: serve the probe there (strandline.testing.probe:make_agent). It is
    asked some hundred things, in sessions of its own that begin with check-.

    Exit code: 0 if all holds that was tried, 1 if something breaks, 2 if it
    could not be tried or told (no probe answers there).

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
    """Return all findings; on a terminal, say meanwhile which are there."""
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
