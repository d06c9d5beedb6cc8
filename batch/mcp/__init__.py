"""The tools of this service for agents, by the Model Context Protocol. Needs the extra `batch-engine[mcp]`."""

import sys

MCP_PACKAGES = frozenset({"mcp", "mcp_types"})
"""What the extra brings."""


def missing_package_advice(error: ModuleNotFoundError) -> str | None:
    """What to do where an import failed because the extra is not installed; None where it failed for another reason."""
    if (error.name or "").partition(".")[0] not in MCP_PACKAGES:
        return None
    return (
        "the package mcp is missing, which comes with the extra batch-engine[mcp]: "
        f"`{sys.executable} -m pip install 'mcp>=2.3,<3'` adds it."
    )
