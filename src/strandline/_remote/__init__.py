"""Strandline servers from outside: the HTTP calls of commands, and their errors as paragraphs for people."""
