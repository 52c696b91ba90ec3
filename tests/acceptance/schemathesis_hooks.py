"""Hooks for Schemathesis: half of all run ids that it requests exist, and no session stays paused.

No run is given so little time that it fails or not as the machine is busy: AgentCore's clients get 500 for that.

What a document allows has to be accepted. Nineteen rules are about values that no schema can compare, so that a
request which is otherwise as the document allows is made to keep them, and all else of it stays as it is: see
`before_call`.
"""

import contextlib
import hashlib
import json
import os
import re
from datetime import UTC, datetime
from typing import Any

import httpx
import schemathesis

OK = 200
SHOWN = {"Authorization": f"Bearer {os.environ['KEY']}"}
LEAST_S = 60.0
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
RUNS = os.environ["KNOWN_RUNS"].split()
KEY = "Idempotency-Key"
SESSION = "X-Session-Id"
SESSION_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9._:@-]{1,256}")
INSTRUCTIONS = ("system", "developer")


@schemathesis.hook
def map_path_parameters(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
    """Put a known run in the place of some ids: which ones depends on nothing but the id."""
    if path_parameters and isinstance(made := path_parameters.get("run_id"), str) and len(made) % 2:
        path_parameters["run_id"] = RUNS[len(made) % len(RUNS)]
    if path_parameters and isinstance(made := path_parameters.get("response_id"), str) and len(made) % 2:
        path_parameters["response_id"] = f"resp_{RUNS[len(made) % len(RUNS)]}"
    return path_parameters


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Have what the document allows keep the rules that no schema can say; and give every run time to end by itself."""
    is_valid = case.meta is not None and case.meta.generation.mode.is_positive
    if is_valid and "Range" in (case.headers or {}):
        case.headers = {**case.headers, "Range": "bytes=0-"}  # (a part has to be within the file)
    if is_valid and "If-Match" in (case.headers or {}):
        case.headers = {**case.headers, "If-Match": "*"}  # (an ETag has to be that of the run, should it still wait)
    if (
        is_valid
        and case.path == "/v1/responses/{response_id}"
        and (case.query or {}).get("stream") not in (True, "true")
    ):
        case.query = {name: value for name, value in (case.query or {}).items() if name != "starting_after"}
    if is_valid and (case.method, case.path) == ("GET", "/mcp"):  # (405 is what clients want without)
        case.headers = {"Last-Event-ID": "EVENT_ID", **(case.headers or {})}
    if not isinstance(case.body, dict):
        return
    _give_time(case.body)
    _begin_now(case.body)
    if isinstance(case.body.get("options"), dict):  # (the defaults of a session)
        _give_time(case.body["options"])
    props = case.body.get("forwardedProps")
    if isinstance(props, dict) and isinstance(options := props.get("strandline"), dict):  # (of AG-UI)
        _give_time(options)
        _begin_now(options)
        if is_valid:
            _say_how_to_collect_if_it_does(options)
    if not is_valid:
        return
    _answer_each_once(case.body)
    _name_no_file(case.body)
    _say_how_to_collect_if_it_does(case.body)
    if case.path.endswith("/again"):
        _join_no_run(case.body)
    if case.path.endswith("/fork"):
        _name_a_message(case.body)
    if case.path.startswith("/v1/schedules"):
        _fire_some_day(case.body)
    if case.path == "/v1/sessions/{session_id}" and isinstance(options := case.body.get("options"), dict):
        _replace_both_policies(options)
    if case.path == "/v1/chat/completions":
        _end_with_a_question(case.body)
        _want_text_of_the_agent(case.body)
        _name_a_session(case)
    if case.path == "/v1/responses":
        _end_with_a_message(case)
    if case.path == "/agui":
        _end_with_a_user(case.body)
        _answer_each_interrupt_once(case.body)
    _keep_the_key_for_this_request(case)


def _give_time(options: dict[str, Any]) -> None:
    """What is no limit stays as it is, to be refused."""
    for name in ("timeout", "queue_timeout"):
        if isinstance(options.get(name), int | float) and 0 < options[name] < LEAST_S:
            options[name] = LEAST_S


def _begin_now(body: dict[str, Any]) -> None:
    """No client waits here for a run that begins some day, as the document's example does; what is no instant stays."""
    with contextlib.suppress(KeyError, TypeError, ValueError):
        if datetime.fromisoformat(body["not_before"]).year > LONG_AGO.year:
            body["not_before"] = LONG_AGO.isoformat()


def _answer_each_once(body: dict[str, Any]) -> None:
    """Two elements of a list may not have the same `id`."""
    given = body.get("input")
    for answers in (body, given):
        if isinstance(answers, dict) and isinstance(answers.get("responses"), list):
            answers["responses"] = list({each["id"]: each for each in answers["responses"]}.values())


def _name_no_file(body: dict[str, Any]) -> None:
    """A file that an input names has to be one of its session."""
    if isinstance(given := body.get("input"), list):
        body["input"] = [{"text": "a file"} if isinstance(each, dict) and "file" in each else each for each in given]


def _say_how_to_collect_if_it_does(body: dict[str, Any]) -> None:
    """How long a run collects goes with the policy `collect` only."""
    if "collect" in body and body.get("if_busy") != "collect":
        del body["collect"]


def _join_no_run(body: dict[str, Any]) -> None:
    """A run that goes back is a turn of its own."""
    if body.get("if_busy") in ("steer", "collect"):
        del body["if_busy"]


def _name_a_message(body: dict[str, Any]) -> None:
    """The index of a message is written without a fraction, also one of 0."""
    if isinstance(after := body.get("after"), dict) and isinstance(after.get("message"), float):
        after["message"] = int(after["message"])


def _fire_some_day(body: dict[str, Any]) -> None:
    """An expression has to be one of cron, and its time zone has to be known; an interval has none."""
    if isinstance(body.get("cron"), str):
        body["cron"] = "0 9 * * MON-FRI"
        if isinstance(body.get("timezone"), str):
            body["timezone"] = "Europe/Berlin"
    else:
        body.pop("timezone", None)


def _replace_both_policies(options: dict[str, Any]) -> None:
    """A policy that interrupts excludes one for questions, also if that one was set by an earlier request."""
    for one, other in (("if_busy", "on_question"), ("on_question", "if_busy")):
        if one in options:
            options.setdefault(other, None)


def _end_with_a_question(body: dict[str, Any]) -> None:
    """The last message, instructions left out, is a text of the user's; or there are answers in its place."""
    said = [each for each in body["messages"] if each["role"] not in INSTRUCTIONS]
    has_prompt = said and said[-1]["role"] == "user" and isinstance(said[-1].get("content"), str)
    if not has_prompt and body.get("responses") is None:
        body["messages"] = [*body["messages"], {"role": "user", "content": "Hello"}]


def _end_with_a_message(case: Any) -> None:
    """All items are messages of the user's, the conversation has an id, and only one of three names it; the response
    before has to exist. Nothing asks for another kind of answer than the agent's."""
    body = case.body
    for name in ("tools", "tool_choice", "text", "prompt", "top_logprobs", "store"):
        body.pop(name, None)
    if isinstance(body.get("input"), list):
        body["input"] = "Hello"
    body.pop("previous_response_id", None)
    named = body.get("conversation")
    if not (isinstance(named, str) and SESSION_ID.fullmatch(named)):
        body.pop("conversation", None)
    if body.get("conversation") is not None:
        case.headers = {name: value for name, value in (case.headers or {}).items() if name != SESSION}


def _want_text_of_the_agent(body: dict[str, Any]) -> None:
    """Only an agent of Strands takes tools or gives an answer a form, and this one is a function."""
    for name in ("tools", "tool_choice", "response_format"):
        body.pop(name, None)


def _end_with_a_user(body: dict[str, Any]) -> None:
    """The user's last message is a text, and no result of a tool follows it; under a `runId` it is the only one. A
    function takes no tools of clients."""
    body.pop("tools", None)
    body["messages"] = [*body["messages"], {"id": "last", "role": "user", "content": "Hello"}]
    made = json.dumps(body, sort_keys=True)
    body["runId"] = hashlib.sha256(made.encode()).hexdigest()


def _answer_each_interrupt_once(body: dict[str, Any]) -> None:
    """Two entries may not have the same `interruptId`."""
    if body.get("resume"):
        body["resume"] = list({each["interruptId"]: each for each in body["resume"]}.values())


def _name_a_session(case: Any) -> None:
    """Header, metadata or `user` name one: the first that is there counts, and the body alone cannot know."""
    named = [(case.body.get("metadata") or {}).get("session_id"), case.body.get("user")]
    first = next((each for each in named if each is not None), None)
    if SESSION not in (case.headers or {}) and not (isinstance(first, str) and SESSION_ID.fullmatch(first)):
        case.headers = {**(case.headers or {}), SESSION: "my-session"}


def _keep_the_key_for_this_request(case: Any) -> None:
    """Under one key another request is refused, as it has to be: each body, for each run, has its own, in the form that
    was made."""
    if (key := (case.headers or {}).get(KEY)) is not None:
        made = json.dumps([case.path_parameters, case.body], sort_keys=True)
        digest = hashlib.sha256(made.encode()).hexdigest()[:16]
        case.headers = {**case.headers, KEY: f'"{digest}"' if key.startswith('"') else f"{digest}{key[len(digest) :]}"}


@schemathesis.hook
def after_call(context: Any, case: Any, response: Any) -> None:
    """Resume a paused session: every later run in it would wait until its client times out."""
    if case.path.endswith("/pause") and response.status_code == OK:
        httpx.post(str(response.request.url).removesuffix("/pause") + "/resume", headers=SHOWN).raise_for_status()
