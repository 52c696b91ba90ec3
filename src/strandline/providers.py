"""Models by name: `load_model("openai:gpt-4o-mini")`."""

from strandline._providers import load_model

__all__ = ["load_model"]
