"""Graphs and Swarms: one per session, made by the user's factory. Prompt and answer become two messages.

The tools of the nodes are invisible, so runs are not resumable. The memory of the nodes between runs is stored as the
session's state, and follows Strands (strands-agents 1.62.0, tested by `tests/unit/test_multi.py`): each agent of a
Graph continues its own conversation (unless `reset_on_revisit` resets it within a run); a Swarm resets each agent when
it is entered, and continues only its shared context. Strands' `serialize_state` is not used: it stores the position in
an unfinished task, and a restored Graph would continue that task instead of the next prompt.
"""

import asyncio
import hashlib
import logging
import zlib
from collections.abc import Iterable, Iterator
from contextlib import aclosing
from typing import Any, Final, cast

from strands import Agent
from strands.agent.agent_result import AgentResult
from strands.multiagent.base import MultiAgentBase, MultiAgentResult, NodeResult, Status
from strands.multiagent.graph import Graph, GraphResult
from strands.multiagent.swarm import Swarm, SwarmResult
from strands.telemetry.metrics import EventLoopMetrics

from strandline._agents.abnormal_exit import AbnormalExit, watch_exits
from strandline._agents.files import files_of
from strandline._agents.nodes import NodeProgress
from strandline._agents.port import Attempt, Finished, Signal, unusable_options
from strandline._agents.strands import check_agent, invocation_state, kind_of, whole_numbers
from strandline._agents.waiting import LiveWaiting, live_waiting
from strandline._agents.window import PACK_LEVEL
from strandline._encoding import decoder, encode_messages
from strandline._history import answer_text, pairing_faults, prompt_message
from strandline._model import Ending, ErrorCode, Failed, Message, Raised, StateRecord, Succeeded
from strandline.errors import AgentFailed

_log = logging.getLogger("strandline.agents")
_record = decoder(dict[str, Any])

Multi = Graph | Swarm
SNAPSHOT: Final = ["messages", "state", "conversation_manager_state", "model_state"]
CANCEL_POLL_S: Final = 0.05
"""How often to check for a cancel, as Strands itself does: a Graph takes no signal."""


class MultiAgent:
    """The Graph or Swarm of one session."""

    def __init__(self, made: Multi, state: StateRecord | None) -> None:
        self._made = made
        self._agents = list(agents_in(made))
        self._packed: bytes | None = None
        if state is not None:
            _restore(made, state)
        self._digest = _digest(_memory(made))

    async def run(self, attempt: Attempt) -> Finished:
        """Run the nodes on the prompt."""
        prompt = attempt.prompt
        assert prompt is not None, "a run of a graph or swarm never resumes"
        if (unusable := unusable_options(attempt.context, "a Graph or Swarm")) is not None:
            return unusable
        if self._packed is not None:
            packed, self._packed = self._packed, None
            _restore(self._made, _record(zlib.decompress(packed)))
        question = prompt_message(prompt, attempt.context.sender)
        attempt.add(question)
        task = question["content"][0]["text"] if isinstance(prompt, str) else question["content"]
        with watch_exits(files_of(attempt.context)) as exits:
            return await self._run(task, attempt, exits)

    async def _run(self, task: Any, attempt: Attempt, exits: AbnormalExit) -> Finished:
        progress = NodeProgress(attempt)
        if attempt.context.shows_waiting:
            exits.waiting = await live_waiting(attempt)
        watch = asyncio.create_task(self._forward_cancel(attempt.signal))
        try:
            result = await self._stream(task, attempt, progress, exits.waiting)
        except Exception as error:
            _log.debug("run %s failed here", attempt.context.run_id, exc_info=error)
            usage = whole_numbers(dict(self._made.state.accumulated_usage))
            return Finished(ending=_failed(self._made, *progress.failure(error)), usage=usage)
        finally:
            watch.cancel()
            for agent in self._agents:
                agent.event_loop_metrics = EventLoopMetrics()  # else it grows by every message ever said
        usage = whole_numbers(dict(result.accumulated_usage))
        ending = exits.ending(self._ending(result, progress, cancelled=attempt.signal.is_set()))
        if not isinstance(ending, Succeeded):
            return Finished(ending=ending, usage=usage)
        if (answer := _answer(self._made, result)).strip():
            attempt.add({"role": "assistant", "content": [{"text": answer}]})
        else:
            attempt.reset_text()
        if faults := [fault for agent in self._agents for fault in pairing_faults(_messages_of(agent))]:
            _log.warning("no provider would accept a node's conversation (%s); it is rebuilt", "; ".join(faults))
            return Finished(ending=ending, usage=usage, keep=False)
        # A late cancel has marked agents that did not run: their next run would end at once.
        return Finished(ending=ending, usage=usage, state=self._changed_memory(), keep=not attempt.signal.is_set())

    def compact(self) -> None:
        """Compress the memory of the nodes."""
        if self._packed is None:
            self._packed = zlib.compress(encode_messages(_memory(self._made)), PACK_LEVEL)
            for agent in self._agents:
                agent.messages = []

    async def _stream(
        self, task: Any, attempt: Attempt, progress: NodeProgress, waiting: LiveWaiting | None
    ) -> MultiAgentResult:
        result: MultiAgentResult | None = None
        stream = self._made.stream_async(task, invocation_state(attempt.context, waiting))
        async with aclosing(cast(Any, stream)) as events:
            async for event in events:
                if "result" in event:
                    result = event["result"]
                else:
                    progress.note(event)
        assert result is not None, "stream_async ended without a result"
        return result

    async def _forward_cancel(self, signal: Signal) -> None:
        """Cancel every agent once the signal is set; those that have not started end at once when they do.

        A cancelled run drops its agents.
        """
        while not signal.is_set():  # noqa: ASYNC110 (another thread sets the flag, without an event)
            await asyncio.sleep(CANCEL_POLL_S)
        for agent in self._agents:
            agent.cancel()

    def _ending(self, result: MultiAgentResult, progress: NodeProgress, *, cancelled: bool) -> Ending:
        if cancelled and any(each.stop_reason == "cancelled" for each in _agent_results(result)):
            return Failed(ErrorCode.STOPPED, "the run was cancelled")
        match result.status:
            case Status.COMPLETED:
                return Succeeded()
            case Status.INTERRUPTED:
                names = ", ".join(interrupt.name for interrupt in result.interrupts)
                nodes = ", ".join(progress.interrupted) or "a node"
                return _failed(
                    self._made,
                    f"{nodes} requested input ({names}), which cannot be answered in a {type(self._made).__name__}",
                )
            case _:
                detail, raised = progress.failure(None)
                return _failed(self._made, detail or _limit(self._made), raised)

    def _changed_memory(self) -> StateRecord | None:
        memory = _memory(self._made)
        digest = _digest(memory)
        if digest == self._digest:
            return None
        self._digest = digest
        return memory


# -- its nodes ---------------------------------------------------------------------------------------


def check_multi(made: Multi) -> None:
    """Raise `AgentFailed`, with the reason, if a Graph or Swarm cannot be served."""
    kind = type(made).__name__
    if made.session_manager is not None:
        raise AgentFailed(f"the {kind} has a session manager, but Strandline keeps the history: leave it out")
    for name, part in _parts(made):
        match part:
            case Agent():
                check_agent(part)
            case Graph() | Swarm():
                check_multi(part)
            case MultiAgentBase():
                raise AgentFailed(
                    f"node {name} of the {kind} is {kind_of(part)}, whose memory cannot be stored: use a"
                    " strands.Agent, Graph or Swarm, or serve an async function (message, session)"
                )


def agents_in(made: Multi) -> Iterator[Agent]:
    """Yield the agents of all nodes, including nested ones."""
    for _, part in _parts(made):
        if isinstance(part, Agent):
            yield part
        elif isinstance(part, Graph | Swarm):
            yield from agents_in(part)


def _parts(made: Multi) -> Iterable[tuple[str, object]]:
    return [(name, node.executor) for name, node in made.nodes.items()]


# -- its memory --------------------------------------------------------------------------------------


def _memory(part: object) -> StateRecord:
    """Return the memory to store between runs; {} for nodes without one, or with one elsewhere (a remote agent)."""
    match part:
        case Graph():
            return {"nodes": {name: memory for name, inner in _parts(part) if (memory := _memory(inner))}}
        case Swarm():
            return {"shared_context": part.shared_context.context}
        case Agent():
            return part.take_snapshot(include=cast(Any, SNAPSHOT)).data
        case _:
            return {}


def _restore(part: object, memory: StateRecord) -> None:
    """Restore the stored memory. Removed nodes are ignored, new ones start empty."""
    match part:
        case Graph() if "nodes" in memory:
            for name, inner in _parts(part):
                _restore(inner, memory["nodes"].get(name, {}))
        case Swarm() if "shared_context" in memory:
            known = memory["shared_context"].items()
            part.shared_context.context = {name: context for name, context in known if name in part.nodes}
        case Agent() if "messages" in memory:
            snapshot = part.take_snapshot(include=cast(Any, SNAPSHOT))
            snapshot.data = memory
            part.load_snapshot(snapshot)


def _digest(memory: StateRecord) -> bytes:
    return hashlib.sha256(encode_messages(memory)).digest()


def _messages_of(agent: Agent) -> list[Message]:
    return cast("list[Message]", agent.messages)


# -- its result --------------------------------------------------------------------------------------


def _answer(made: Multi, result: MultiAgentResult) -> str:
    """Return the text of the last nodes, in execution order."""
    return "\n\n".join(text for name in _last_nodes(made, result) if (text := _text_of(made, name, result)).strip())


def _last_nodes(made: Multi, result: MultiAgentResult) -> list[str]:
    """Return the nodes with no successor: the last one of a Swarm, those of a Graph that led to no other one."""
    if isinstance(result, SwarmResult):
        return [node.node_id for node in result.node_history[-1:]]
    assert isinstance(made, Graph)
    assert isinstance(result, GraphResult)
    last = {node.node_id: number for number, node in enumerate(result.execution_order)}
    led_on = {
        edge.from_node.node_id
        for edge in made.edges
        if last.get(edge.to_node.node_id, -1) > last.get(edge.from_node.node_id, -1)
    }
    return [name for name in sorted(last, key=last.__getitem__) if name not in led_on]


def _text_of(made: Multi, name: str, result: MultiAgentResult) -> str:
    match result.results[name].result:
        case MultiAgentResult() as nested:
            return _answer(cast(Multi, made.nodes[name].executor), nested)
        case AgentResult(structured_output=output) if output is not None:
            return str(output.model_dump_json())
        case Exception():
            return ""
        case agent_result:
            return answer_text(cast(Message, agent_result.message))


def _agent_results(result: MultiAgentResult) -> Iterator[AgentResult]:
    nodes: Iterable[NodeResult] = result.results.values()
    for node in nodes:
        yield from node.get_agent_results()


def _failed(made: Multi, detail: str, raised: Raised | None = None) -> Failed:
    why = f"the {type(made).__name__} failed"
    out_of_tokens = raised is not None and raised.is_out_of_tokens
    return Failed(ErrorCode.AGENT_ERROR, f"{why}: {detail}" if detail else why, raised, out_of_tokens)


def _limit(made: Multi) -> str:
    """Return which of its own limits stopped it; Strands logs that and does not return it."""
    if isinstance(made, Graph):
        continues, reason = made.state.should_continue(made.max_node_executions, made.execution_timeout)
    else:
        continues, reason = made.state.should_continue(
            max_handoffs=made.max_handoffs,
            max_iterations=made.max_iterations,
            execution_timeout=made.execution_timeout,
            repetitive_handoff_detection_window=made.repetitive_handoff_detection_window,
            repetitive_handoff_min_unique_agents=made.repetitive_handoff_min_unique_agents,
        )
    return "a node was stopped" if continues else reason
