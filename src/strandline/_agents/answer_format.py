"""The answer of a Strands agent in the form that a client wants, through Strands' structured output.

Strands makes a tool of a Pydantic model, and has the model call it. Here that is one model for all runs, which accepts
what the run's schema accepts: Strands keeps each such class for good. A model's provider is shown the client's schema.
"""

from typing import Any, Final

from pydantic import BaseModel, ConfigDict, create_model, model_validator
from strands import Agent
from strands.middleware import InvokeModelContext, InvokeModelStage

from strandline._agents.abnormal_exit import CURRENT
from strandline._agents.checked_answer import CannotCheck, CheckedAnswer
from strandline._model import FORMAT_TOOL, AnswerFormat

MOST_MISSES: Final = 5
"""How many answers that are not as the schema says end a run: each is a call of the model."""
_ANY: Final[dict[str, Any]] = {"type": "object", "properties": {}}


class WantedAnswer(CheckedAnswer):
    """The answer of one run, as its client wants it."""

    def __init__(self, form: AnswerFormat) -> None:
        super().__init__(form.json_schema)
        self.form = form


class _Answer(BaseModel):
    """What the model gives. It is checked as the current run says; `WantedAnswer.given` has it."""

    model_config = ConfigDict(extra="allow")

    @model_validator(mode="before")
    @classmethod
    def _as_wanted(cls, given: Any) -> Any:
        exits = CURRENT.get()
        if exits is None or not isinstance(wanted := exits.wanted, WantedAnswer):
            return given
        try:
            wanted.check(given)
        except CannotCheck as error:
            exits.note(f"the answer cannot be checked: {error}")
            raise ValueError(str(error)) from None
        except ValueError as error:
            if wanted.misses >= MOST_MISSES:
                exits.note(f"{wanted.misses} answers of the model were not as the client's schema says: {error}")
            raise
        exits.given = wanted.given
        return {}

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """Return the schema of the current run, for providers that have the model keep to it by themselves."""
        exits = CURRENT.get()
        wanted = None if exits is None else exits.wanted
        return dict(wanted.form.json_schema) if isinstance(wanted, WantedAnswer) else dict(_ANY)


FORM: Final[type[BaseModel]] = create_model(FORMAT_TOOL, __base__=_Answer)
"""The output model of all runs whose clients want a form. Its name is that of the tool."""


def show_format(agent: Agent) -> None:
    """Have an agent show its model the schema of the current run, in place of that of `FORM`."""
    agent.add_middleware(InvokeModelStage.Input, _with_schema)


def _with_schema(context: InvokeModelContext) -> InvokeModelContext:
    exits = CURRENT.get()
    if exits is None or not isinstance(wanted := exits.wanted, WantedAnswer):
        return context
    specs = [
        {**spec, "description": _described(wanted.form), "inputSchema": {"json": wanted.form.json_schema}}
        if spec["name"] == FORMAT_TOOL
        else spec
        for spec in context.tool_specs
    ]
    return context.replace(tool_specs=specs)  # type: ignore[arg-type]


def _described(form: AnswerFormat) -> str:
    named = f" ({form.name})" if form.name else ""
    said = f" {form.description}" if form.description else ""
    return f"Gives your final answer its form{named}: call it last, and once, with the whole answer.{said}"
