"""`strandline webhooks`: show what waits to be sent or is dead, send it again, test a webhook."""

from typing import Annotated, Any, Final

import typer

from strandline._cli import rows, say
from strandline._cli.address import KeyFile, Url
from strandline._cli.runs import All, Json, more, most, print_json, server_of

HEAD: Final = ("EVENT", "SESSION", "ATTEMPTS", "NEXT", "WHY")

webhooks_app = typer.Typer(rich_markup_mode=None)


@webhooks_app.callback(invoke_without_command=True)
def webhooks(
    context: typer.Context,
    dead: Annotated[bool, typer.Option("--dead", help="Only those that are sent no more.")] = False,
    limit: Annotated[int, typer.Option(help="Events to show at most.", metavar="N", min=1)] = 100,
    everything: All = False,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show the events that wait to be sent to webhooks, or are dead, and why.

    Example: strandline webhooks --dead
    """
    if context.invoked_subcommand is not None:
        return
    with say.errors_reported(), server_of(url, key_file) as server:
        found = server.webhooks(most(limit, everything=everything), "dead" if dead else None)
    if as_json:
        print_json(found)
    elif not found["webhooks"]:
        say.err().print("No event is dead." if dead else "No event waits to be sent, and none is dead.", soft_wrap=True)
    else:
        rows.show(HEAD, [_row(each) for each in found["webhooks"]])
        more(found)


@webhooks_app.command(short_help="Send events again.")
def resend(
    events: Annotated[
        list[str] | None, typer.Argument(help="Their ids, as `strandline webhooks` shows them.", metavar="[EVENT]...")
    ] = None,
    dead: Annotated[bool, typer.Option("--dead", help="All that are dead.")] = False,
    url: Url = None,
    key_file: KeyFile = None,
) -> None:
    """Send events again at once, under the same ids, as often as new ones.

    Example: strandline webhooks resend --dead
    """
    if dead == bool(events):
        raise typer.BadParameter("name events, or say --dead")
    with say.errors_reported(), server_of(url, key_file) as server:
        ids = list(events or [])
        if dead:
            ids = [each["id"] for each in server.webhooks(most(1, everything=True), "dead")["webhooks"]]
        for each in ids:
            server.resend_webhook(each)
    what = "1 event is" if len(ids) == 1 else f"{len(ids)} events are"
    say.out().print(f"{what} sent again.", markup=False, soft_wrap=True)


@webhooks_app.command("test", short_help="Send a test to a webhook.")
def send_test(
    to: Annotated[str, typer.Argument(help="Where to send it.", metavar="URL")],
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Have the server send an event `webhook.test` to a URL once, and show what became of it.

    The exit code is 1 if it was not received.

    Example: strandline webhooks test https://example.com/hook
    """
    with say.errors_reported(), server_of(url, key_file) as server:
        result = server.test_webhook(to)
    if as_json:
        print_json(result)
    else:
        what = "was received" if result["received"] else "was not received"
        say.out().print(f"{result['id']} {what}: {result['detail']}.", markup=False, soft_wrap=True)
    if not result["received"]:
        raise typer.Exit(1)


def _row(event: dict[str, Any]) -> list[str]:
    return [
        event["id"],
        event["session_id"],
        str(event["attempts"]),
        "dead" if event["status"] == "dead" else rows.clock_time(event["next_at"]),
        event["error"] or rows.BARE,
    ]
