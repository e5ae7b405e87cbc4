"""The MCP server `task_manager`: the tools, over standard input and output.

Its tools are listed at once; what they are made of is imported meanwhile. Each call has a thread of its own,
so that a hook is answered while a tool is at work; those hooks for which there is nothing to do are answered
by the thread that reads.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from .. import __version__
from ..core.process import Identity, identity_of
from ..core.settings import hide_store_url
from .client_end import end_of_client, release_later
from .schema import INSTRUCTIONS, SERVER, TOOLS
from .wire import Calls, Connection, Params, Request, WrongRequest, hello, tool_call, tool_result, unknown

if TYPE_CHECKING:
    from .handler import ToolHandler
    from .hook_tool import HookTool

#: Set by `scripts/launch`: the pid of whoever started the server.
CLIENT_PID = "HYPERVISOR_CLIENT_PID"
#: Likewise: a file that stands for as long as the client has not been told the tools.
STARTING = "HYPERVISOR_STARTING"
#: The tool that the client's hooks call. It is not listed: no model is to see it.
HOOK = "hook"
#: In seconds; no server takes as long to start.
_FORGOTTEN = 86400.0


def main(pending: Iterable[str] = ()) -> int:
    """Serve until the client closes standard input; return the exit code.

    Args:
        pending: What the client has said already.
    """
    hide_store_url()
    server = Server(os.environ)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # how a client ends its servers
        signal.signal(number, server.stop)
    server.load()
    said = itertools.chain((line.encode() for line in pending), sys.stdin.buffer)
    server.serve(Connection(said, sys.stdout.buffer))
    return 0


def hello_answer(request: Request) -> dict[str, Any]:
    """Return the answer to ``initialize``."""
    return hello(request, SERVER, __version__, INSTRUCTIONS)


def list_answer(environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the answer to ``tools/list``; the client has its tools with that."""
    _started(environ)
    return {"tools": [tool.to_json() for tool in TOOLS]}


def client_of(environ: Mapping[str, str]) -> Identity | None:
    """Return the client's process, None where it is not known."""
    pid = environ.get(CLIENT_PID, "")
    if not pid.isdecimal() or int(pid) <= 1:
        return None
    client = identity_of(int(pid))
    return client if client.start else None


class Server:
    """One client's server.

    Args:
        environ: The server's environment.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = dict(environ)
        self.client = client_of(environ)
        self._calls = Calls()
        self._loaded = threading.Event()
        self._tools: ToolHandler | None = None
        self._hooks: HookTool | None = None
        self._stopped = False

    # ------------------------------------------------------------------ start

    def load(self) -> None:
        """Begin to import what the tools are made of, and to look at the tasks."""
        # Waited for at the end: a first start, whose client does not wait, is to leave all of us compiled.
        threading.Thread(target=self._load, name="load").start()

    def _load(self) -> None:
        import gc  # noqa: PLC0415 - as all that follows: the tools are told before

        try:
            from ..tasks.index_watch import LiveIndex  # noqa: PLC0415
            from .handler import ToolHandler  # noqa: PLC0415
            from .hook_tool import HookTool  # noqa: PLC0415

            self._tools = ToolHandler(self._environ, self.client, LiveIndex())
            self._hooks = HookTool(self._tools.context)
        finally:
            self._loaded.set()
        # The first call that needs them need not wait for them.
        import filelock  # noqa: F401, PLC0415

        from . import tools  # noqa: F401, PLC0415

        gc.freeze()  # what is loaded stays: no call waits while all of it is looked through
        threading.Thread(target=_look, args=(self._tools,), name="first look", daemon=True).start()

    # ------------------------------------------------------------------ serve

    def serve(self, connection: Connection) -> None:
        """Answer what the client asks, until it closes its end."""
        for request in connection.requests():
            try:
                self._answer(connection, request)
            except WrongRequest as error:
                connection.refuse(request, error)
        self._calls.wait()
        self._loaded.wait()
        if self._tools is not None and self._hooks is not None:
            end_of_client(self._tools.context, self._hooks.ours)

    def _answer(self, connection: Connection, request: Request) -> None:
        if request.method == "tools/call":
            self._call(connection, request, *tool_call(request))
        elif request.method == "initialize":
            connection.answer(request, hello_answer(request))
        elif request.method == "tools/list":
            connection.answer(request, list_answer(self._environ))
        elif request.method == "ping":
            connection.answer(request, {})
        else:
            raise unknown(request)

    def _call(self, connection: Connection, request: Request, name: str, given: Params) -> None:
        if name == HOOK and self._hooks is not None:
            text = self._hooks.from_memory(given)
            if isinstance(text, str):
                connection.answer(request, tool_result(text))
                return
        self._calls.begin(lambda: connection.answer(request, self._carried_out(name, given)))

    def _carried_out(self, name: str, given: Params) -> dict[str, Any]:
        self._loaded.wait()
        if self._tools is None or self._hooks is None:
            return tool_result(
                "{}" if name == HOOK else f"{name}: the server could not load", failed=name != HOOK
            )
        if name == HOOK:
            return tool_result(self._hooks.answer(given))
        text, failed = carry_out(self._tools, name, given)
        return tool_result(text, failed=failed)

    # -------------------------------------------------------------------- end

    def stop(self, *_: object) -> None:
        """End at once, as the client asks; what its agents hold is released as soon as it is gone."""
        if not self._stopped:
            self._stopped = True
            if self.client is not None and self._hooks is not None and self._hooks.ours:
                release_later(self.client, self._hooks.ours, self._environ)
        # Not by an exception: the thread that waits for a line would keep the process until one comes.
        os._exit(0)


def carry_out(handler: ToolHandler, name: str, arguments: Params) -> tuple[str, bool]:
    """Return the answer of a call, and whether it is a refusal."""
    from ..core.errors import HypervisorError, advice_for  # noqa: PLC0415

    try:
        return handler.call(name, arguments), False
    except HypervisorError as error:
        return str(error), True
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror or error}; {advice_for(error)}", True
    except Exception as error:  # noqa: BLE001 - the session goes on; what went wrong is told and logged
        import traceback  # noqa: PLC0415 - seldom

        traceback.print_exc(file=sys.stderr)
        return f"{name} failed within ({type(error).__name__}: {error}); nothing is lost, try once more", True


def _look(handler: ToolHandler) -> None:
    """Look at the tasks before the first call needs them, in a project that is ours already."""
    with contextlib.suppress(Exception):  # who calls is told
        context = handler.context
        if context.project.state.is_dir():
            with context.service({}) as service, service.catalog.view():
                pass


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
