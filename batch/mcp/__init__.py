"""The tools of this service for agents, by the Model Context Protocol. Needs the extra `batch-engine[mcp]`."""
