"""What the nodes of a Graph or Swarm do in one run, as its events tell it.

Knows the events of strands-agents 1.62.0 and nothing else: which node is at work, what the one at work says, and
which one failed how.
"""

from collections.abc import Mapping
from typing import Any

from strands.types.exceptions import EventLoopException

from strandline._agents.port import Attempt
from strandline._model import Raised


class NodeProgress:
    """What the nodes of one run do, as their events tell it. A nested node is named after the one that it is in."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._at_work: list[str] = []
        self._speaker: str | None = None
        self._failures: dict[str, Raised | str] = {}
        self.interrupted: list[str] = []

    def note(self, event: Mapping[str, Any], within: str = "") -> None:
        """Take an event of the Graph or Swarm, or of one that is nested in it."""
        self._attempt.touch()
        node = f"{within}{event.get('node_id', '')}"
        match event.get("type"):
            case "multiagent_node_start":
                # Two nodes at once would talk into each other: none of them is heard then.
                self._speaker = node if all(node.startswith(f"{other}/") for other in self._at_work) else None
                self._at_work.append(node)
                self._attempt.reset_text()
                self._attempt.enter(f"node {node}")
            case "multiagent_node_stop":
                if node in self._at_work:
                    self._at_work.remove(node)
                if isinstance(failure := event["node_result"].result, Exception):
                    self._failures.setdefault(node, _raised(failure))
            case "multiagent_node_cancel":
                self._failures[node] = str(event.get("message") or "cancelled")
            case "multiagent_node_interrupt":
                self.interrupted.append(node)
            case "multiagent_node_stream":
                inner = event["event"]
                if str(inner.get("type", "")).startswith("multiagent_"):
                    self.note(inner, within=f"{node}/")
                elif node == self._speaker and inner.get("start_event_loop"):
                    self._attempt.reset_text()
                elif node == self._speaker and "data" in inner:
                    self._attempt.add_text(inner["data"])
                elif node == self._speaker and inner.get("reasoningText"):
                    self._attempt.add_reasoning(inner["reasoningText"])

    def failure(self, error: Exception | None) -> tuple[str, Raised | None]:
        """Say which node failed, the innermost first, and what it raised; else what was raised, `""` if nothing was.

        A Swarm says nothing of a node that took too long, except that it has begun and not ended.
        """
        if self._failures:
            node, failure = next(iter(self._failures.items()))
            return (f"node {node}", failure) if isinstance(failure, Raised) else (f"node {node}: {failure}", None)
        if error is not None:
            return "", _raised(error)
        return f"node {self._at_work[-1]} did not end in the time that it has" if self._at_work else "", None


def _raised(error: BaseException) -> Raised:
    while isinstance(error, EventLoopException):
        error = error.original_exception
    kind = type(error).__name__
    return Raised(kind, f"{kind}: {error}")
