"""AgentCore Runtime's HTTP contract."""
