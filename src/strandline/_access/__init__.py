"""API keys: how they are made and stored, and which are valid now. Knows no HTTP."""
