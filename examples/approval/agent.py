"""A clerk that pays money back, and asks a person before it pays back much."""

from pathlib import Path

from script import model
from strands import Agent, ToolContext, tool

ASK_FROM = 50


@tool(context=True)
def refund(order: str, amount: float, tool_context: ToolContext) -> str:
    """Pay money back to a customer.

    Args:
        order: The number of the order.
        amount: How much, in euros.
    """
    # Once it is answered, all of this runs again from here on: whatever is before the question must do no harm twice.
    if amount >= ASK_FROM:
        answer = tool_context.interrupt("refund", reason={"order": order, "amount": amount})
        if answer != "yes":
            return f"A person said: {answer}. Nothing was paid."
    with (Path(tool_context.invocation_state["workspace"]) / "refunds.csv").open("a") as paid:
        paid.write(f"{order},{amount:g}\n")
    return f"Paid {amount:g} euros back for order {order}."


def make_agent(session_id: str) -> Agent:
    """Make the agent of one session."""
    return Agent(
        model=model,
        tools=[refund],
        system_prompt="You are a clerk who pays money back. Say what was done, and no more.",
    )
