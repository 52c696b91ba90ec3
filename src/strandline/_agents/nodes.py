"""The progress of the nodes of a Graph or Swarm in one run, from its events.

Knows the events of strands-agents 1.62.0 and nothing else.
"""

from collections.abc import Mapping
from typing import Any

from strands.types.exceptions import EventLoopException

from strandline._agents.port import Attempt
from strandline._model import Raised


class NodeProgress:
    """Reports which node runs, its text, and failures. A nested node is named `OUTER/INNER`."""

    def __init__(self, attempt: Attempt) -> None:
        self._attempt = attempt
        self._at_work: list[str] = []
        self._speaker: str | None = None
        self._failures: dict[str, Raised | str] = {}
        self.interrupted: list[str] = []

    def note(self, event: Mapping[str, Any], within: str = "") -> None:
        """Process an event of the Graph or Swarm, or of a nested one."""
        self._attempt.touch()
        node = f"{within}{event.get('node_id', '')}"
        match event.get("type"):
            case "multiagent_node_start":
                # The texts of two nodes at once would mix: publish neither.
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
        """Return which node failed, the innermost first, and its error; without one, `error`.

        A Swarm has no event for a node that took too long; it has started and not ended.
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
