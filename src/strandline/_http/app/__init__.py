"""Puts the HTTP application together, and describes it."""
