"""The limits and policies of a service. `strandline.config` says what each means."""

from typing import Literal

from msgspec import Struct

from strandline.engine.failures import ErrorText
from strandline.model import OnDisconnect, OnQuestion


class Options(Struct, frozen=True, kw_only=True):
    """Durations are seconds."""

    max_running: int = 64
    max_queued_per_session: int = 100
    max_queued: int = 10_000
    max_queued_per_principal: int | None = None
    max_running_per_principal: int | None = None
    max_metadata_bytes: int = 16 * 1024
    allowed_content: frozenset[str] = frozenset()
    error_text: ErrorText = "full"
    priority: int = 3
    timeout_s: float = 3600.0
    queue_timeout_s: float = 3600.0
    input_timeout_s: float = 900.0
    cancel_grace_s: float = 5.0
    hold_limit_s: float = 60.0
    max_holds: int = 8
    max_holds_per_principal: int | None = None
    max_stored_bytes_per_principal: int | None = None
    executor_threads: int = 256
    stall_after_s: float = 120.0
    stall_action: Literal["report", "cancel"] = "report"
    max_attempts: int = 3
    unknown_tool: Literal["fail", "tell"] = "fail"
    idempotent_tools: frozenset[str] = frozenset()
    on_failure: Literal["keep", "drop"] = "keep"
    run_retention_s: float = 30 * 86400.0
    history_retention_s: float | None = None
    on_disconnect: OnDisconnect = OnDisconnect.CONTINUE
    on_question: OnQuestion = OnQuestion.WAIT
    idempotency_retention_s: float = 86400.0
    retry_after_s: float = 5.0
    drain_grace_s: float = 6.0
    stop_grace_s: float = 1.0
    stream_retention_s: float = 300.0
    stream_buffer: int = 10_000
    stream_buffer_bytes: int = 4 * 1024 * 1024
    stream_memory: int = 64 * 1024 * 1024
    stream_cut: int = 16 * 1024
    max_agents: int = 1_000
    agent_idle_s: float = 600.0
    survives: bool = True
    """Whether what the journal keeps outlives the process."""
