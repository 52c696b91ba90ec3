"""`strandline answer`: the open questions of a session, and their answers."""

from typing import Annotated, Any

import typer

from strandline._cli import rows, say
from strandline._cli.address import KeyFile, Url, address, api_key
from strandline._cli.complete import SESSIONS
from strandline._cli.runs import Json, print_json


def answer(
    session: Annotated[
        str, typer.Argument(help="The session with the question.", metavar="SESSION", autocompletion=SESSIONS)
    ],
    response: Annotated[
        str | None, typer.Argument(help="The answer; without it, the questions are shown.", metavar="TEXT")
    ] = None,
    to: Annotated[
        list[str] | None,
        typer.Option("--to", help="Answer one of several questions; repeat for each.", metavar="ID=TEXT"),
    ] = None,
    url: Url = None,
    key_file: KeyFile = None,
    as_json: Json = False,
) -> None:
    """Show an agent's questions, or answer them so that it continues.

    TEXT answers a single question; if there are several, answer each with --to.

    Example: strandline answer ada yes
    """
    if response is not None and to:
        say.fail("answer with TEXT or with --to ID=TEXT, not with both")
    given = [each.partition("=") for each in to or []]
    if any(not sign for _, sign, _ in given):
        say.fail("--to needs the id of a question: --to ID=TEXT")
    with say.errors_reported():
        from strandline._model import session_id
        from strandline._remote.server import RemoteServer

        with RemoteServer(address(url), api_key(key_file)) as server:
            questions: list[dict[str, Any]] = server.session(session_id(session)).get("input_requests", [])
            if response is None and not given:
                print_json(questions) if as_json else _print_questions(session, questions)
                return
            answers = {request_id: text for request_id, _, text in given}
            if response is not None:
                answers = {_only(session, questions)["id"]: response}
            run = server.answer(session, answers)
        if as_json:
            print_json(run)
        else:
            sentence = (
                f"{run['run_id']} continues with the answer; `strandline runs {run['run_id']}` shows its progress."
            )
            say.out().print(sentence, markup=False, soft_wrap=True)


def _only(session: str, questions: list[dict[str, Any]]) -> dict[str, Any]:
    if not questions:
        say.fail(f"session {session} has no open question: it was answered, dismissed, or never asked")
    if len(questions) > 1:
        say.fail(
            f"session {session} has {len(questions)} open questions; answer each with --to ID=TEXT."
            f" `strandline answer {session}` shows their ids"
        )
    return questions[0]


def _print_questions(session: str, questions: list[dict[str, Any]]) -> None:
    if not questions:
        say.err().print(f"Session {session} has no open question.", markup=False, soft_wrap=True)
        return
    shown = [[each["id"], each["name"], _text(each.get("reason"))] for each in questions]
    rows.show(["ID", "NAME", "WHY"], shown, whole=True)  # never cut: people approve what they read


def _text(reason: Any) -> str:
    from strandline._encoding import encode

    return reason if isinstance(reason, str) else "" if reason is None else encode(reason).decode()
