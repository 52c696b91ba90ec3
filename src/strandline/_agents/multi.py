"""Graphs and Swarms: one per session, made by the user's factory. Question and answer become two messages.

The tools of the nodes cannot be seen, so a run counts as having one in the middle from its start. What the nodes
remember from run to run is Strands' own way, kept as the session's state record: each agent of a Graph has a
conversation of its own that goes on (unless `reset_on_revisit` resets it within a run); a Swarm resets its agents
whenever one is entered, and only its shared context goes on. (strands-agents 1.62.0, tried by the tests in
`tests/unit/test_multi.py`.) Strands' `serialize_state` is not used: it tells where an unfinished task stands, and
a Graph that has it back goes on with that task instead of the next question.
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
from strandline._agents.nodes import NodeProgress
from strandline._agents.port import Attempt, Finished, Signal
from strandline._agents.strands import check_agent, invocation_state, kind_of, whole_numbers
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
"""How soon a cancel reaches the nodes: a Graph takes no signal, so it is looked at, as often as Strands itself does."""


class MultiAgent:
    """The Graph or Swarm of one session."""

    def __init__(self, made: Multi, state: StateRecord | None) -> None:
        self._made = made
        self._agents = list(agents_in(made))
        self._packed: bytes | None = None
        if state is not None:
            _remind(made, state)
        self._digest = _digest(_memory(made))

    async def run(self, attempt: Attempt) -> Finished:
        """Send the question through the nodes, to the end."""
        prompt = attempt.prompt
        assert prompt is not None, "a run of a graph or swarm never resumes"
        if self._packed is not None:
            packed, self._packed = self._packed, None
            _remind(self._made, _record(zlib.decompress(packed)))
        asked = prompt_message(prompt)
        attempt.add(asked)
        task = asked["content"][0]["text"] if isinstance(prompt, str) else asked["content"]
        with watch_exits() as broken:
            return await self._run(task, attempt, broken)

    async def _run(self, task: Any, attempt: Attempt, broken: AbnormalExit) -> Finished:
        progress = NodeProgress(attempt)
        watch = asyncio.create_task(self._pass_on(attempt.signal))
        try:
            result = await self._stream(task, attempt, progress)
        except Exception as error:
            _log.debug("run %s failed here", attempt.context.run_id, exc_info=error)
            usage = whole_numbers(dict(self._made.state.accumulated_usage))
            return Finished(ending=_failed(self._made, *progress.failure(error)), usage=usage)
        finally:
            watch.cancel()
            for agent in self._agents:
                agent.event_loop_metrics = EventLoopMetrics()  # else it grows by every message ever said
        usage = whole_numbers(dict(result.accumulated_usage))
        ending = broken.ending(self._ending(result, progress, cancelled=attempt.signal.is_set()))
        if not isinstance(ending, Succeeded):
            return Finished(ending=ending, usage=usage)
        if (answer := _answer(self._made, result)).strip():
            attempt.add({"role": "assistant", "content": [{"text": answer}]})
        else:
            attempt.reset_text()
        if faults := [fault for agent in self._agents for fault in pairing_faults(_messages_of(agent))]:
            _log.warning("a node's conversation is not one that a provider accepts (%s); rebuilt", "; ".join(faults))
            return Finished(ending=ending, usage=usage, keep=False)
        # A cancel that came too late has marked agents that did not run: their next run would end at once.
        return Finished(ending=ending, usage=usage, state=self._changed_memory(), keep=not attempt.signal.is_set())

    def compact(self) -> None:
        """Keep what the nodes remember as bytes."""
        if self._packed is None:
            self._packed = zlib.compress(encode_messages(_memory(self._made)), PACK_LEVEL)
            for agent in self._agents:
                agent.messages = []

    async def _stream(self, task: Any, attempt: Attempt, progress: NodeProgress) -> MultiAgentResult:
        result: MultiAgentResult | None = None
        stream = self._made.stream_async(task, invocation_state(attempt.context))
        async with aclosing(cast(Any, stream)) as events:
            async for event in events:
                if "result" in event:
                    result = event["result"]
                else:
                    progress.note(event)
        assert result is not None, "stream_async ended without a result"
        return result

    async def _pass_on(self, signal: Signal) -> None:
        """Cancel every agent once the run is asked to end; also those whose turn has not come, which then end at once.

        The agents are not used again after that: a run that is cancelled drops them.
        """
        while not signal.is_set():  # noqa: ASYNC110 (a flag that another thread sets: nothing to wait for)
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
                    self._made, f"{nodes} asked for input ({names}), but its input requests cannot be answered here"
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


# -- what it is made of -------------------------------------------------------------------------------


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
                    f"node {name} of the {kind} is {kind_of(part)}, and what that remembers cannot be kept: use a"
                    " strands.Agent, Graph or Swarm, or serve an async function (message, session)"
                )


def agents_in(made: Multi) -> Iterator[Agent]:
    """Yield the agents of all nodes, nested ones too."""
    for _, part in _parts(made):
        if isinstance(part, Agent):
            yield part
        elif isinstance(part, Graph | Swarm):
            yield from agents_in(part)


def _parts(made: Multi) -> Iterable[tuple[str, object]]:
    return [(name, node.executor) for name, node in made.nodes.items()]


# -- what it remembers --------------------------------------------------------------------------------


def _memory(part: object) -> StateRecord:
    """Return what is to be kept from run to run; {} for what keeps nothing, or keeps it elsewhere (a remote agent)."""
    match part:
        case Graph():
            return {"nodes": {name: memory for name, inner in _parts(part) if (memory := _memory(inner))}}
        case Swarm():
            return {"shared_context": part.shared_context.context}
        case Agent():
            return part.take_snapshot(include=cast(Any, SNAPSHOT)).data
        case _:
            return {}


def _remind(part: object, memory: StateRecord) -> None:
    """Give back what was kept. A node that is no longer there is forgotten, a new one begins anew."""
    match part:
        case Graph() if "nodes" in memory:
            for name, inner in _parts(part):
                _remind(inner, memory["nodes"].get(name, {}))
        case Swarm() if "shared_context" in memory:
            known = memory["shared_context"].items()
            part.shared_context.context = {name: told for name, told in known if name in part.nodes}
        case Agent() if "messages" in memory:
            snapshot = part.take_snapshot(include=cast(Any, SNAPSHOT))
            snapshot.data = memory
            part.load_snapshot(snapshot)


def _digest(memory: StateRecord) -> bytes:
    return hashlib.sha256(encode_messages(memory)).digest()


def _messages_of(agent: Agent) -> list[Message]:
    return cast("list[Message]", agent.messages)


# -- what came of it ----------------------------------------------------------------------------------


def _answer(made: Multi, result: MultiAgentResult) -> str:
    """Return the text of the nodes that ended it, in the order in which they ran."""
    return "\n\n".join(text for name in _last_nodes(made, result) if (text := _text_of(made, name, result)).strip())


def _last_nodes(made: Multi, result: MultiAgentResult) -> list[str]:
    """Return the nodes that nothing came after: a Swarm's last, those of a Graph that led to no other in the end."""
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
    """Say which of its own limits stopped it; Strands logs that, and does not return it."""
    if isinstance(made, Graph):
        goes_on, reason = made.state.should_continue(made.max_node_executions, made.execution_timeout)
    else:
        goes_on, reason = made.state.should_continue(
            max_handoffs=made.max_handoffs,
            max_iterations=made.max_iterations,
            execution_timeout=made.execution_timeout,
            repetitive_handoff_detection_window=made.repetitive_handoff_detection_window,
            repetitive_handoff_min_unique_agents=made.repetitive_handoff_min_unique_agents,
        )
    return "a node was stopped" if goes_on else reason
