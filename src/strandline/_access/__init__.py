"""API keys: how they are made and kept, and which of them count at this moment. Knows no HTTP."""
