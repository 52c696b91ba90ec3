"""Sends events over HTTP: who signs them, where they may go, and how they get there. Knows no journal."""
