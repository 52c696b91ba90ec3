"""The official clients of A2A, each in an environment of its own, and what the tests read of their answers."""

import json
import subprocess
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from acceptance.server import DEADLINE_S, environment
from client_packages import python_client

VERSIONS: Final = {"0.3": "a2a_0_3", "1.0": "a2a_1"}


class Client:
    """A client of one version, which is sent one request at a time."""

    def __init__(self, url: str, version: str, key: str | None = None) -> None:
        program, folder = python_client(VERSIONS[version])
        self.version = version
        self._process = subprocess.Popen(
            [program, str(folder / "ask_a2a.py"), url, *([] if key is None else [key])],
            env=environment({}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = ThreadPoolExecutor(1)
        self._sent = 0

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, do: str, **said: Any) -> "Future[dict[str, Any]]":
        """Begin a request."""
        assert self._process.stdin is not None
        self._sent += 1
        said = {"do": do, "message_id": f"m{self._sent}", **said}
        self._process.stdin.write(json.dumps(said) + "\n")
        self._process.stdin.flush()
        return self._reader.submit(self._read)

    def asked(self, do: str, **said: Any) -> Any:
        """Return the result of a request."""
        found = self.ask(do, **said).result(DEADLINE_S)
        assert "result" in found, found
        return found["result"]

    def refused(self, do: str, **said: Any) -> dict[str, Any]:
        """Return the error of a request."""
        found = self.ask(do, **said).result(DEADLINE_S)
        assert "error" in found, found
        return found

    def task(self, do: str, **said: Any) -> dict[str, Any]:
        """Return the task that a request results in."""
        result = self.asked(do, **said)
        return self.task_of(result[0] if isinstance(result, list) else result)

    def task_of(self, event: Any) -> dict[str, Any]:
        """Return the task that an event has."""
        found: dict[str, Any] = event[0] if isinstance(event, list) else event.get("task", event)
        return found

    def states(self, events: list[Any]) -> list[str]:
        """Return the states that a stream has said, the task's first."""
        found = [self.state(self.task_of(events[0]))]
        for each in events[1:]:
            update = each[1] if isinstance(each, list) else each.get("statusUpdate", {})
            found += [self.state(update)] if "status" in update else []
        return found

    def streamed(self, events: list[Any]) -> str:
        """Return the text that a stream has said, as a client puts it together."""
        text = ""
        for each in events[1:]:
            update = each[1] if isinstance(each, list) else each.get("artifactUpdate", {})
            if "artifact" in update:
                piece = said_in({"artifacts": [update["artifact"]]})
                text = text + piece if update.get("append") else piece
        return text

    def state(self, task: dict[str, Any]) -> str:
        """Return the state of a task, as 0.3 says it."""
        said: str = task["status"]["state"]
        return said.removeprefix("TASK_STATE_").lower().replace("_", "-")

    def close(self) -> None:
        """End it."""
        self._process.kill()
        self._process.communicate()
        self._reader.shutdown()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the client ended: {self._process.poll()}"
        said: dict[str, Any] = json.loads(line)
        return said


def said_in(task: dict[str, Any]) -> str:
    """Return the text of a task's artifacts."""
    return "".join(part.get("text", "") for each in task.get("artifacts", []) for part in each["parts"])
