"""OpenAI's Responses API: a response is a run, a conversation is a session."""
