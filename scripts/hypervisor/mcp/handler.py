"""One server's calls: each is checked, carried out by its tool, and answered with compact JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..core.errors import UsageError
from ..core.process import Identity
from ..store.liveness import require_no_run_above
from ..tasks.index_watch import LiveIndex
from .arguments import Arguments, read_arguments
from .context import ToolContext
from .schema import BY_NAME


class ToolHandler:
    """The tools of one server.

    Args:
        environ: The server's environment.
        client: The client's process, if it is known.
        live: The index of a server that stays.
    """

    def __init__(
        self, environ: Mapping[str, str], client: Identity | None = None, live: LiveIndex | None = None
    ) -> None:
        self.context = ToolContext(environ, client, live)

    def call(self, name: str, given: Arguments) -> str:
        """Carry out one call; return its answer as compact JSON.

        Raises:
            HypervisorError: It was refused; the text says what to do next.
        """
        from .tools import TOOLS  # noqa: PLC0415 - most of the package: a server lists its tools before

        tool = BY_NAME.get(name)
        if tool is None:
            raise UsageError(f"{name}: no such tool; there are {', '.join(BY_NAME)}")
        if not tool.read_only and self.context.assigned is None:
            require_no_run_above(str(self.context.project.state / "workers"))
        answer: Any = TOOLS[name](self.context, read_arguments(tool, given))
        text = json.dumps(answer, ensure_ascii=False, separators=(",", ":"))
        return text.encode("utf-8", "replace").decode()

    def close(self) -> None:
        """Close the store and the index."""
        self.context.close()
