"""Long-term memory for LLM agents, run by small models."""
