"""What is particular about pages. A page of which `page_run.py` can test every block needs no entry."""

from pathlib import Path
from typing import Final, get_args

from docs.page_run import Page, agent, init
from docs.pages import Block, all_blocks
from examples_shown import example
from strandline import _exits as exits
from strandline._backoff import LONGEST_WAIT_READY_S, LONGEST_WAIT_S, YOUNG_S
from strandline._chat.conversation import PATIENCE_S
from strandline._chat.program import NEEDS_INPUT
from strandline._check.adapters import BUILT_IN
from strandline._check.suite import PROMISES
from strandline._config import ALIASES, default_of
from strandline._http.dialects.agentcore import wire as agentcore
from strandline._journal.ownership import SCHEMA_VERSION
from strandline._model import ErrorCode, IfBusy, OnDisconnect
from strandline._reload.changes import IGNORED
from strandline._settings import Settings
from strandline._telemetry import export, traces
from strandline.client import _plans as plans
from strandline.client import _requests as requests


def approval(folder: Path) -> list[str]:
    """Copy the agent that asks a person before it pays much."""
    shown = example("approval")
    shown.copy(folder / "approval")
    return [str(folder / "approval" / shown.serve[0]), *shown.serve[1:]]


ORDERS: Final = """
from strands import Agent, ToolContext, tool
from strandline.testing import ScriptedModel, call, question, results, say

@tool
def order_status(number: int) -> str:
    "Say how far an order is."
    return "It is on its way."

@tool(context=True)
def refund(number: int, tool_context: ToolContext) -> str:
    "Pay an order back."
    return "Paid back." if tool_context.interrupt("refund", reason=number) == "yes" else "Not paid back."

def script(messages):
    if results(messages):
        return " ".join(results(messages).values())
    name, _, number = question(messages).rstrip("?").rpartition(" ")
    return [say("Let me look. "), call("refund" if name == "refund" else "order_status", {"number": int(number)})]

def make_agent(session_id: str) -> Agent:
    return Agent(model=ScriptedModel(script), tools=[order_status, refund])
"""

NUMBERED: Final = [("", "hello", "Question 1: hello"), ("", "and now?", "Question 2: and now?")]
PAGES: Final[dict[str, Page]] = {
    # -- at the top of the checkout --------------------------------------------------------------------
    "README.md": Page(
        by={
            "test_the_agent_of_the_readme_has_eight_lines_and_is_on_the_sites_first_page": ["make_agent"],
            "test_the_two_curls_get_what_the_readme_says": ["strandline serve", "add 2 and 3", "message 1"],
        }
    ),
    "ARCHITECTURE.md": Page(
        by={
            "test_the_architecture_page_shows_the_table_of_moves": ["```mermaid\n"],
            "test_every_file_that_the_architecture_names_is_there": ["src/strandline/\n"],
        },
        drawn=["HTTP exchange --submit-->"],
    ),
    "CONTRIBUTING.md": Page(
        by={
            "test_every_target_of_make_is_there": ["make check test"],
            "test_a_journal_is_tested_as_shown": ["TestMyJournal"],
        }
    ),
    # -- in docs/ --------------------------------------------------------------------------------------
    "a2a.md": Page(by={"test_its_program_asks_by_strands": ["A2AAgent("]}),
    "agui.md": Page(
        by={
            "test_its_program_prints_what_it_shows_by_the_official_client": [
                'threadId: "ada"',
                "resume: [",
                "user: add",
                'threadId: "tools"',
                "weather returned",
            ],
            "test_a_conversation_in_copilotkit": ["new CopilotRuntime"],
        }
    ),
    "agentcore.md": Page(
        by={
            "test_its_program_prints_what_it_shows": ["boto3", "```text\n"],
            "test_its_stream_is_lines_of_text": ["event-stream"],
        },
        says=[
            *(f"`{code}`" for code in ErrorCode),
            *(f"`{name}`" for name in (agentcore.SESSION, *agentcore.RUNTIME_HEADERS.values())),
            *(f"`{name}`" for name in agentcore.Invocation.__struct_fields__),
            *(
                f'"{name}"'
                for each in (agentcore.InputNeeded, agentcore.StreamFailure)
                for name in each.__struct_fields__
            ),
            *get_args(agentcore.PingBody.__annotations__["status"]),
            f"up to {agentcore.LONGEST} characters",
        ],
    ),
    "agents.md": Page(
        by={
            "test_the_client_is_the_one_that_the_documentation_shows": ["class Reconnecting"],
            "test_a_call_to_a_dead_server_fails_for_the_model_and_the_next_one_finds_the_new_server": ["Reconnecting("],
        },
        drawn=["Agent(model=..., tools=[...]"],
    ),
    "behind-a-proxy.md": Page(
        by={
            "test_the_proxy_waits_longer_than_a_run_may_take": ["```toml\n"],
            "test_several_servers_have_each_its_sessions_for_good": ["hash "],
            "test_messages_wait_their_turn_and_are_answered_through_the_proxy": ["```nginx\n"],
            "test_who_has_no_password_is_refused_but_probes_are_answered": ["openssl"],
            "test_the_command_of_the_page_gets_an_answer": ["curl"],
            "test_the_container_is_given_only_settings_that_exist": ["docker run"],
        }
    ),
    "benchmarks.md": Page(by={"test_make_has_every_target_of_the_pages": ["make"]}),
    "mcp.md": Page(drawn=["claude mcp add", "mcpServers"]),  # (programs that are not installed)
    "mutation.md": Page(by={"test_make_has_every_target_of_the_pages": ["make"]}),
    "chat-and-reload.md": Page(
        by={
            "test_the_screen_of_a_reload": ["make_agent", "--reload", "Reloaded"],
            "test_the_screen_of_code_that_does_not_load": ["SyntaxError"],
            "test_the_conversation": ["chat --session ada", "ada> hello"],
            "test_the_commands_of_scripts": ["chat", "It is **3**", "```json\n"],
        },
        says=[
            f"`drain_grace` ({Settings().drain_grace_s:g} s)",
            f"`Retry-After`, for {PATIENCE_S:g} s",
            f"for which chat waits {PATIENCE_S:g} s",
            *(f"`{name}`" for name in IGNORED),
        ],
    ),
    "chat-programs.md": Page(
        by={
            "test_its_command_talks_in_the_session_that_it_names": ["curl"],
            "test_open_webui_has_a_session_for_each_chat_and_others_for_its_own_tasks": ["CHAT_ID"],
            "test_librechat_has_a_session_for_each_conversation": ["```yaml\n"],
            "test_the_header_of_older_versions_of_open_webui_may_name_the_session": ["--session-header"],
            "test_two_threads_in_anythingllm": ["GENERIC_OPEN_AI_CUSTOM_HEADERS"],
        }
    ),
    "check.md": Page(
        served={},
        by={"test_the_probe_answers_for_another_framework": ["other.py"]},
        says=[f"| `{name}` | {meaning} |" for name, meaning in PROMISES.items()],
        lists={r"^\| `([\w-]+)` \|": PROMISES.keys() | BUILT_IN.keys()},
    ),
    "client.md": Page(
        served={"": agent(ORDERS)},
        says=[
            f"`patience_s` seconds ({plans.PATIENCE_S:g};",
            f"grow from {plans.FIRST_S:g} s to {plans.RETRY_S:g} s",
            f"nothing comes for {requests.QUIET_S:g} s",
        ],
    ),
    "coming-from-a-lock.md": Page(
        served={},
        by={
            "test_a_lock_leaves_two_questions_in_a_row_and_forgets_all_in_a_crash": ["app.py"],
        },
        asks=NUMBERED,
    ),
    "coming-from-agentcore.md": Page(served={}, asks=NUMBERED, drawn=["BedrockAgentCoreApp"]),  # (is not installed)
    "coming-from-langgraph.md": Page(
        served={},
        by={
            "test_the_new_client_of_the_langgraph_page_is_answered": ["newclient.py"],
            "test_what_stands_before_is_langgraphs_own": ["```json\n", "client.py"],
        },
        asks=NUMBERED,
    ),
    "comparison.md": Page(by={"test_strandline_holds_in_every_act": ["demo race"]}),
    "console.md": Page(by={"test_browsers_get_the_page_and_programs_get_links": ['"console":"/console"']}),
    "container.md": Page(
        by={
            "test_the_command_that_locks_it_down_is_the_one_that_is_tested": ["docker run --detach"],
            "test_an_image_of_ones_own_is_the_example": ["```dockerfile\n"],
            "test_what_the_page_says_about_compose": ["docker compose"],
            "test_every_folder_and_file_that_it_names_is_there": ["kubectl"],
        }
    ),
    "contract.md": Page(lists={r"`(PORT|AGENT_ID|IDLE_TIMEOUT_MINUTES)`": ALIASES.values()}),
    "examples.md": Page(by={"test_the_commands_of_the_page_are_those_of_the_example": ["examples/"]}),
    "index.md": Page(
        by={
            "test_the_agent_of_the_readme_has_eight_lines_and_is_on_the_sites_first_page": [
                "make_agent",
                "strandline serve",
            ]
        }
    ),
    "input-requests.md": Page(
        served={"": approval},
        parts=True,
        by={
            "test_its_code_is_that_of_the_example": ["```python\n"],
            "test_the_stream_of_a_waiting_message_begins_as_shown": ["event: run.queued"],
        },
        says=[f"`input_timeout` seconds ({default_of('input_timeout'):g})"],
    ),
    "journal.md": Page(
        by={"test_every_command_works_as_it_stands_there": ["```sh\n"]},
        drawn=["FOLDER/session_ID"],
        says=[f"which is {SCHEMA_VERSION} in this version"],
    ),
    "library.md": Page(
        served={},
        by={
            "test_the_two_curls_get_what_the_page_says": ["shop.py", "uvicorn", "curl", "on its way"],
            "test_each_app_starts_and_its_agent_answers": ["own_lifespan.py", "own_route.py", "alone.py"],
            "test_the_test_passes": ["test_shop.py", "test_agent.py"],
            "test_the_script_serves": ["serve_it.py"],
        },
    ),
    "life-of-a-run.md": Page(by={"test_every_ending_is_shown_as_it_is": ["```text\n"]}),
    "metrics.md": Page(
        by={
            "test_the_command_of_the_page_shows_the_present_values": ["curl", "```yaml\n"],
            "test_prometheus_takes_the_configurations": ["credentials_file"],
        }
    ),
    "openai.md": Page(
        served={"": init, "refund": approval, "kim": init, "counter": approval, "while calls": init},
        says=[f"`{code}`" for code in ErrorCode],
    ),
    "operations.md": Page(
        by={
            "test_a_night_with_a_container": ["docker "],
            "test_it_names_what_the_manifests_name": ["kubectl "],
            "test_prometheus_understands_the_queries": ["```promql\n"],
            "test_the_new_version_is_tried_on_a_copy_that_executes_nothing": ["tried.db"],
            "test_an_upgrade_is_rolled_back_to_what_the_old_version_had": ["rolled-back"],
            "test_a_lost_journal_is_restored_from_a_backup_that_was_made_under_load": ["monday.db"],
            "test_what_a_session_said_can_be_deleted_and_old_runs_pruned": ["--vacuum"],
            "test_the_probe_of_the_journal_is_a_run_like_any_other": ["operations-probe"],
            "test_what_is_typed_at_one_of_several_servers_shows_something": ["strandline cluster"],
            "test_every_command_of_the_night_can_be_typed_and_shows_something": ["```sh\n"],
        },
        lists={
            r"^\| (\d+) \|": {each for each in vars(exits).values() if isinstance(each, int)} | {0, NEEDS_INPUT, 137},
        },
    ),
    "quick-start.md": Page(
        by={
            "test_the_way_of_installing_names_extras_and_folders_that_exist": ["pip install"],
            "test_init_writes_the_file_that_is_shown": ["strandline init", "make_agent"],
            "test_what_is_served_without_a_target_is_the_file_that_init_wrote": ["strandline serve"],
            "test_the_two_questions_get_the_answers_that_are_shown": ['"message": "and hello', '"agent_id"'],
            "test_health_answers_as_shown": ["/health"],
            "test_history_is_as_it_is_shown": ["/history", '"messages"'],
            "test_its_container_serves_the_file_that_init_writes": ["docker run"],
        }
    ),
    "reference.md": Page(by={"test_a_run_is_resolved_by_what_the_reference_sends": ['{"tools": [']}),
    "run-control.md": Page(
        says=[f'"{each}"' for each in OnDisconnect if each != OnDisconnect.CONTINUE],
        lists={r"^\| `(\w+)` \|": ["if_busy", *IfBusy]},
        drawn=["Agent(model=..., tools=[waiting_messages"],
    ),
    "security.md": Page(
        by={
            "test_its_commands_make_keys_and_a_server_that_takes_them": ["keys new", "curl"],
            "test_its_token_is_made_as_shown_and_has_one_conversation": ["create_token"],
        }
    ),
    "several-servers.md": Page(
        by={
            "test_a_server_keeps_its_journal_in_the_database_that_is_named": ["export STRANDLINE_JOURNAL"],
            "test_its_command_moves_a_journal_from_sqlite": ["strandline journal copy"],
            "test_two_servers_are_seen_and_one_is_drained_as_shown": ["$ strandline cluster"],
        }
    ),
    "streaming.md": Page(
        by={
            "test_changes_are_published_as_the_page_shows": ["/v1/events?", "/pause"],
            "test_its_script_shows_an_answer_in_a_browser_as_it_comes": ["```js\n"],
        }
    ),
    "targets.md": Page(
        served={},
        asks=[
            *((file, "hello", "You asked: hello") for file in ("agent.py", "shared.py", "external.py")),
            ("nodes.py:make_graph", "hello", "From plan:"),
            ("nodes.py:make_swarm", "hello", "User Request: hello"),
            ("function.py", "hello", "Question 1 of ada, after 0 messages: hello"),
        ],
    ),
    "terminal.md": Page(
        served={},
        outside=True,
        by={"test_bash_itself_completes_after_the_script_that_it_is_given": ["--install-completion"]},
        loose=["all have their default values"],
    ),
    "traces.md": Page(
        by={
            "test_the_address_that_is_named_has_spans_sent_or_the_page_says_what_is_missing": ["jaegertracing"],
            "test_every_span_and_attribute_stands_on_the_page_and_no_other": ["strandline.run  "],
            "test_strands_texts_of_the_conversation_can_be_left_out": ["OTEL_SEMCONV_STABILITY_OPT_IN"],
            "test_the_line_of_the_page_is_one_that_a_server_writes": ["--log-format json", "```json\n"],
        },
        says=[f"{traces.LONGEST:,} characters", f"for {export.FLUSH_S:g} seconds at most"],
    ),
    "webhooks.md": Page(
        drawn=["const webhook = new Webhook"],
        by={"test_an_event_is_sent_to_a_receiver_whose_authority_is_trusted": ["SSL_CERT_FILE="]},
    ),
    "workers.md": Page(
        by={
            "test_two_sessions_are_in_two_workers_and_one_continues_after_its_worker_died": [
                "```python\n",
                "```sh\n",
                "```json\n",
            ]
        },
        says=[
            f"within {YOUNG_S:g} s",
            f"at most {LONGEST_WAIT_READY_S:g} s if it took runs and {LONGEST_WAIT_S:g} s if it could not",
        ],
    ),
}


def claimed(name: str, test: str) -> list[Block]:
    """Return the blocks of a page that the table gives to a test."""
    return [each for each in all_blocks(name) if PAGES[name].test_of(each) == test]
