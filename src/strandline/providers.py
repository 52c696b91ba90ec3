"""Models by name: `load_model("openai:gpt-4o-mini")`, so that one line of an agent's file says which model answers."""

from strandline._providers import load_model

__all__ = ["load_model"]
