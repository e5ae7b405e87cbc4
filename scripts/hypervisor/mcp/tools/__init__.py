"""The tools by name; one module for each noun."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ..arguments import Arguments
from ..context import ToolContext
from . import agents, batches, events, tasks

#: A tool: takes the context and the arguments of a call, returns plain data.
TOOLS: Mapping[str, Callable[[ToolContext, Arguments], Any]] = {
    **tasks.TOOLS,
    **batches.TOOLS,
    **agents.TOOLS,
    **events.TOOLS,
}
