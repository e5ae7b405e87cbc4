"""The MCP server `task_manager`: the tools, over standard input and output."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from typing import Any

import anyio
from mcp.server.lowlevel import Server
from mcp.server.stdio import stdio_server
from mcp.types import CallToolResult, ListToolsResult, TextContent, ToolAnnotations
from mcp.types import Tool as WireTool

from .. import __version__
from ..core.errors import HypervisorError, advice_for
from ..core.process import Identity, identity_of
from ..tasks.live import LiveIndex
from .client_end import end_of_client
from .handler import ToolHandler
from .schema import INSTRUCTIONS, SERVER, TOOLS

#: Set by `scripts/with-uv`: the pid of whoever started the server.
CLIENT_PID = "HYPERVISOR_CLIENT_PID"
#: Likewise: a file that stands for as long as the client has not been told the tools.
STARTING = "HYPERVISOR_STARTING"
#: In seconds; no server takes as long to start.
_FORGOTTEN = 86400.0


def main() -> int:
    """Serve until the client closes standard input; return the exit code."""
    handler = ToolHandler(dict(os.environ), client_of(os.environ), LiveIndex())

    def stop(*_: object) -> None:
        # Not by an exception: the thread that waits for a line would keep the process until one comes.
        # The client lives, as it has sent this; its own hooks release what its agents hold.
        os._exit(0)

    threading.Thread(target=_look, args=(handler,), name="first look", daemon=True).start()
    signal.signal(signal.SIGINT, stop)  # how a client ends its servers
    try:
        anyio.run(_serve, handler)
    finally:
        end_of_client(handler.context)
    return 0


def _look(handler: ToolHandler) -> None:
    """Look at the tasks before the first call needs them, in a project that is ours already."""
    with contextlib.suppress(Exception):  # who calls is told
        # The first call that needs them need not wait for them.
        import filelock  # noqa: F401, PLC0415

        from ..documents import frontmatter  # noqa: F401, PLC0415
        from . import tools  # noqa: F401, PLC0415

        gc.freeze()  # what is loaded stays: no call waits while all of it is looked through
        if handler.context.project.state.is_dir():
            with handler.context.service({}) as service, service.catalog.view():
                pass


class _Lines(io.TextIOWrapper):
    """Lines of JSON; half a surrogate pair in them (a text cut within a letter) becomes a "?".

    The SDK's reader takes no such line, and its caller would wait for an answer for ever.
    """

    def readline(self, size: int = -1, /) -> str:  # type: ignore[override]  # the stubs say bytes
        line = super().readline(size)
        if "\\ud" not in line.lower():
            return line
        try:
            whole = json.dumps(json.loads(line), ensure_ascii=False)
        except (ValueError, RecursionError):
            return line
        return whole.encode("utf-8", "replace").decode() + "\n"


def client_of(environ: Mapping[str, str]) -> Identity | None:
    """Return the client's process, None where it is not known."""
    pid = environ.get(CLIENT_PID, "")
    if not pid.isdecimal() or int(pid) <= 1:
        return None
    client = identity_of(int(pid))
    return client if client.start else None


def _started(environ: Mapping[str, str]) -> None:
    """Take away the mark that the client's session waits for: its tools are told."""
    mark = environ.get(STARTING)
    if not mark:
        return
    folder = os.path.dirname(mark)
    with contextlib.suppress(OSError):
        os.unlink(mark)
        for entry in os.scandir(folder):  # of servers that were killed before they came as far
            if entry.stat().st_mtime < time.time() - _FORGOTTEN:
                os.unlink(entry)


async def _serve(handler: ToolHandler) -> None:
    async def list_tools(_context: Any, _params: Any) -> ListToolsResult:
        _started(handler.context.environ)
        return ListToolsResult(tools=[
            WireTool(
                name=tool.name,
                description=tool.description,
                input_schema=tool.schema(),
                annotations=ToolAnnotations(read_only_hint=True) if tool.read_only else None,
            )
            for tool in TOOLS
        ])  # fmt: skip

    async def call_tool(_context: Any, params: Any) -> CallToolResult:
        # In a thread, as a call waits for the disk; one that was begun is carried to its end.
        text, failed = await anyio.to_thread.run_sync(
            _carry_out, handler, params.name, params.arguments or {}
        )
        return CallToolResult(content=[TextContent(type="text", text=text)], is_error=failed)

    server = Server(
        SERVER,
        version=__version__,
        instructions=INSTRUCTIONS,
        on_list_tools=list_tools,
        on_call_tool=call_tool,
    )
    async with stdio_server(stdin=anyio.wrap_file(_Lines(sys.stdin.buffer, "utf-8", "replace"))) as (
        reading,
        writing,
    ):
        await server.run(reading, writing, server.create_initialization_options())


def _carry_out(handler: ToolHandler, name: str, arguments: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the answer of a call, and whether it is a refusal."""
    try:
        return handler.call(name, arguments), False
    except HypervisorError as error:
        return str(error), True
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; {advice_for(error)}", True
    except Exception as error:  # noqa: BLE001 - the session goes on; what went wrong is told and logged
        traceback.print_exc(file=sys.stderr)
        return f"{name} failed within ({type(error).__name__}: {error}); nothing is lost, try once more", True
