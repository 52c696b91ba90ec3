"""`strandline init`: writes a first `agent.py`, which `strandline serve` serves unchanged.

Existing files are never changed. It also creates the folder for the server's journal, with its own `.gitignore`, so
that no conversation is committed by mistake.
"""

from pathlib import Path
from typing import Annotated, Final

import typer

from strandline._cli import say
from strandline._cli.complete import MODELS

FILE: Final = "agent.py"
DATA: Final = ".strandline"
FOLDER_HELP: Final = "Where to put it; created if missing [this folder]"
MODEL_HELP: Final = (
    "Which model answers: `openai:NAME`, `bedrock:NAME`, `ollama:NAME` or `scripted`, which needs no key"
)

AGENT: Final = '''"""An agent with one tool, for `strandline serve`."""

from strandline.providers import load_model
from strands import Agent, tool

# Which model answers. "scripted" needs no key: it repeats, counts, and calls the
# tools that you name. Change this one line to use a real one:
#   load_model("openai:gpt-4o-mini")                needs OPENAI_API_KEY
#   load_model("bedrock:us.amazon.nova-lite-v1:0")  needs AWS credentials
#   load_model("ollama:llama3.2")                   needs Ollama on this machine
# or put any other model of Strands here.
model = load_model("{model}")


@tool
def add(a: int, b: int) -> int:
    """Add two numbers.

    Args:
        a: The first number.
        b: The second number.
    """
    return a + b


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session; Strandline stores its conversation."""
    return Agent(
        model=model,
        tools=[add],
        system_prompt="Answer in one short sentence.",
        callback_handler=None,  # a server has no terminal to print answers to
    )
'''


def init(
    folder: Annotated[Path, typer.Argument(help=FOLDER_HELP, metavar="FOLDER", show_default=False)] = Path(),
    model: Annotated[
        str, typer.Option("--model", help=MODEL_HELP, metavar="MODEL", autocompletion=MODELS)
    ] = "scripted",
) -> None:
    """Write a first agent.py, and show what to type next.

    An existing file is left unchanged.

    Example: strandline init my-agent --model openai:gpt-4o-mini
    """
    from strandline._providers import parse

    with say.errors_reported():
        provider, name = parse(model)
    model = f"{provider}:{name}" if name else provider
    file, data = folder / FILE, folder / DATA
    if data.exists() and not data.is_dir():
        say.fail(
            f"{data} is a file, and a server keeps its journal in a folder of that name. Move it away, or name another"
            " folder: `strandline init FOLDER`."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write_new(file, AGENT.format(model=model))
        _keep_out_of_git(data)
    except FileExistsError as error:
        if Path(error.filename or file) != file:
            say.fail(f"{error.filename} is a file, and {file} cannot be put in it. Name another folder.")
        say.fail(
            f"{file} already exists, and was left unchanged. Serve it with `{_serve_command(folder)}`, or create one"
            " in another folder: `strandline init FOLDER`."
        )
    except OSError as error:
        say.fail(
            f"{file} cannot be written: {error.strerror}. Name a writable folder with free space:"
            " `strandline init FOLDER`."
        )
    _say_what_to_type(folder, file, model)


def _write_new(file: Path, text: str) -> None:
    """Write a new file, whole or not at all. Raises `OSError`."""
    with file.open("x", encoding="utf-8") as out:
        try:
            out.write(text)
            out.flush()
        except OSError:
            file.unlink()
            raise


def _keep_out_of_git(data: Path) -> None:
    data.mkdir(exist_ok=True)
    ignore = data / ".gitignore"
    if not ignore.exists():
        ignore.write_text("*\n", encoding="utf-8")


def _serve_command(folder: Path) -> str:
    return "strandline serve" if folder == Path() else f"cd {_quoted(folder)} && strandline serve"


def _quoted(folder: Path) -> str:
    import shlex

    return shlex.quote(str(folder))


def _say_what_to_type(folder: Path, file: Path, model: str) -> None:
    from strandline._providers import PACKAGES, installed, lacks, parse, to_install

    provider, _ = parse(model)
    console = say.out()

    def line(text: str = "", style: str | None = None) -> None:
        # On a terminal prose wraps between words; commands stay on one line.
        console.print(text, style=style, markup=False, soft_wrap=not console.is_terminal or text.startswith("  "))

    needs = ", which needs no key" if provider == "scripted" else ""
    line(f"Created {file}: an agent with one tool. Its model is {model}{needs}.")
    if not installed(provider):
        line(f"{provider} models need the package {PACKAGES[provider]}: {to_install(provider)}", "yellow")
    elif (missing := lacks(provider)) is not None:
        line(f"It cannot be served yet: {missing}", "yellow")
    line()
    line("Serve it:")
    line()
    line(f"  {_serve_command(folder)}", "bold")
    line()
    line("In another terminal, send two requests to one conversation at once:")
    line()
    line('  curl -s localhost:8080/chat -d \'{"message": "add 2 and 3"}\' &', "bold")
    line('  curl -s localhost:8080/chat -d \'{"message": "and hello"}\' & wait', "bold")
    line()
    sentence = 'The second waits for the first, and each gets its own answer, in "response"'
    if provider == "scripted":
        line(f"{sentence}:")
        line()
        line("  add returned 5. That was message 1 of this session.", "dim")
        line("  I am a script. You said: and hello. That was message 2 of this session. ...", "dim")
    else:
        line(f"{sentence}.")
    line()
    line("The conversation is stored, and survives a restart of the server:")
    line()
    line("  curl -s 'localhost:8080/history?count=0'", "bold")
    line()
    line("To talk with it: `strandline chat`. If something does not work: `strandline doctor`.")
    line("`strandline serve --reload` serves your changes as soon as you save them.")
    if provider == "scripted":
        line(f"For a real model, change one line of {file}; it says how.")
