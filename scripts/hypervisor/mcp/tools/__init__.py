"""The tools by name; one module for each noun."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..arguments import Arguments
from ..handler import ToolHandler
from . import agents, batches, events, tasks

#: A tool: takes the handler and the arguments of a call, returns plain data.
TOOLS: Mapping[str, Callable[[ToolHandler, Arguments], Any]] = {
    **tasks.TOOLS,
    **batches.TOOLS,
    **agents.TOOLS,
    **events.TOOLS,
}
