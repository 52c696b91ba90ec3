"""The exchange between a request for a run and its answer, shared by all dialects."""
