"""From an accepted run to its outcome. Knows no HTTP, no driver and no agent framework."""
