"""Strandline puts a stateful agent behind HTTP so that requests to one conversation never race."""

__version__ = "0.1.0"
