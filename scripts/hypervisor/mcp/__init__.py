"""The MCP server: its tools, their schemas and their arguments."""
