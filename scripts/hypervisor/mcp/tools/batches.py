"""The tools on batches: where one stands, and its summary."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ...queue.batches import open_named
from ...queue.summary import write_summary
from ...report.activity import batch_status
from ..arguments import Arguments
from ..context import ToolContext

#: Characters of an answer that clients put before the model as they are; longer ones they put aside
#: into a file.
LONGEST = 40_000


def _batch_status(context: ToolContext, arguments: Arguments) -> Any:
    with open_named(context.project, arguments.get("id", "")) as batch:
        return batch_status(batch, context.live)


def _batch_summary(context: ToolContext, arguments: Arguments) -> Any:
    with open_named(context.project, arguments.get("id", "")) as batch:
        summary, _ = write_summary(batch)
        for part in ("workers", "findings", "needs_attention"):
            if part in summary and len(json.dumps(summary)) > LONGEST:
                summary |= {part: f"too many to show; read {batch.folder}/summary.json"}
        return summary


TOOLS: Mapping[str, Callable[[ToolContext, Arguments], Any]] = {
    "batch_status": _batch_status,
    "batch_summary": _batch_summary,
}
