"""`python -m strandline._demo`: start the demo's model, say what to try, and become the server.

It becomes the server by `exec`: signals, exit status and process id are those of `strandline serve`, and the model's
server stays a child of that process and ends with it.
"""

import os
import socket
import sys
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console

from strandline._demo import local_model
from strandline._demo.local_model import MODEL_VARIABLE
from strandline.errors import ModelError
from strandline.providers import load_model

LOCAL: Final = "local"
"""The small local model if it can run here, otherwise a script."""
HOST: Final = "127.0.0.1"
FOLDER: Final = Path(".strandline")
EXIT_SETUP: Final = 2


def main() -> NoReturn:
    """Serve the demo; never returns. Exits 2 with one line if a setting is wrong or the port is in use."""
    console = Console(highlight=False, soft_wrap=True)
    wanted = os.environ.get(MODEL_VARIABLE) or LOCAL
    if wanted != LOCAL:
        _check(console, wanted)
    port = _port(console)
    environment = {**os.environ, MODEL_VARIABLE: wanted}
    questions = ("Roll a die with 20 sides.", "What was my first message?")
    if wanted == LOCAL and (model := _start_model(console)) is not None:
        environment |= {local_model.URL_VARIABLE: model.url, local_model.KEY_VARIABLE: model.key}
        # Requests to the model never leave this machine, even if a proxy is set.
        environment["NO_PROXY"] = environment["no_proxy"] = f"{HOST},{environment.get('NO_PROXY', '')}"
        questions = ("Tell me a story about a lighthouse.", "What is the capital of France?")
    elif wanted not in (LOCAL, "scripted"):
        environment.pop(local_model.URL_VARIABLE, None)
        console.print(f"The demo answers with {wanted}. It has a tool that rolls dice.")
    else:
        environment |= {MODEL_VARIABLE: "scripted"}
        environment.pop(local_model.URL_VARIABLE, None)
        console.print("The demo answers from a script. It calls its tool when you ask it to roll a die.")
    _say_what_to_try(console, f"http://{HOST}:{port}", questions)
    command = [str(Path(sys.executable).parent / "strandline"), "serve", "strandline._demo.agent"]
    command += ["--host", HOST, "--port", str(port), "--journal", f"sqlite:{FOLDER / 'journal.db'}"]
    sys.stdout.flush()
    os.execve(command[0], command, environment)


def _check(console: Console, wanted: str) -> None:
    """Exit with what is missing if the chosen model cannot be loaded."""
    try:
        load_model(wanted)
    except ModelError as error:
        _refuse(
            console,
            f"{MODEL_VARIABLE} is {wanted!r}: {error} Or unset it: the small model of this machine answers.",
        )


def _start_model(console: Console) -> local_model.RunningModel | None:
    """Start the small model and show progress, or print why there is none and return None."""
    try:
        files = local_model.find()
        size_mb = files.weights.stat().st_size // 1_000_000
        with console.status(f"Loading {files.weights.stem} ({size_mb} MB) ..."):
            model = local_model.start(files, FOLDER / "model.log")
    except local_model.ModelUnavailable as missing:
        console.print(f"There is no small model to run here: {missing}.")
        return None
    console.print(f"{files.weights.stem} is loaded. It is a toy that runs on this machine: expect no wisdom.")
    return model


def _port(console: Console) -> int:
    text = os.environ.get("STRANDLINE_PORT") or os.environ.get("PORT") or "8080"
    if not text.isdecimal() or not 0 < int(text) < 65536:
        _refuse(console, f"PORT is {text!r}; it must be a number from 1 to 65535.")
    port = int(text)
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            _refuse(console, f"Port {port} of {HOST}: {error.strerror}. Try another one: PORT=8081 make run")
    return port


def _say_what_to_try(console: Console, url: str, questions: tuple[str, str]) -> None:
    console.print(
        f"""
Try this in another terminal: two requests to one session at once, and a look at the queue meanwhile.

  curl -s {url}/chat -d '{{"message": "{questions[0]}"}}' &
  curl -s {url}/chat -d '{{"message": "{questions[1]}"}}' &
  sleep 0.3; curl -s {url}/health; wait

  curl -s '{url}/history?count=0'

Ctrl-C stops the server once its executing runs have ended; waiting runs resume at the next start.
""",
        markup=False,
    )


def _refuse(console: Console, reason: str) -> NoReturn:
    console.print(reason, markup=False)
    sys.exit(EXIT_SETUP)


if __name__ == "__main__":
    main()
