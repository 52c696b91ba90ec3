"""Strandline servers, seen from outside: what commands ask them over HTTP, and how their answers are told to people."""
