"""A script of ours that an agent starts in its sandbox: it is run by the coordinator, outside.

In there is neither the store nor the settings. What the script would read, write and answer goes through a
socket that only this attempt has; `orchestrator/relay` is the other end. Nothing but the standard library is
needed here.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import sys
import threading
from collections.abc import Sequence

#: Set by `scripts/launch`: a file that stands until the client has been told the tools.
_STARTING = "HYPERVISOR_STARTING"
#: What a sandbox may say of itself: the session of its client.
SAID = ("CLAUDE_CODE_SESSION_ID", "GEMINI_SESSION_ID")
#: Waits for workers that the session has started; an agent of a run starts none.
_WAITS = "attend.py"
#: The script that is talked to for as long as it lives; all others are asked once.
SERVER = "mcp_server.py"


def main(address: str, script: str, words: Sequence[str]) -> int:
    """Have *script* run outside with *words*, with this process's input and outputs; return its exit code.

    Args:
        address: The socket.
        script: Its path.
        words: Its arguments.
    """
    name = os.path.basename(script)
    if name == _WAITS:
        return 0
    if name == SERVER:
        words = ()
    given = "" if name == SERVER or sys.stdin.isatty() or name == "hypervisor_cli.py" else sys.stdin.read()
    asked = {
        "words": [name, *words], "input": given,
        "environment": {key: os.environ[key] for key in SAID if key in os.environ},
    }  # fmt: skip
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as there:
        try:
            there.connect(address)
            there.sendall(json.dumps(asked).encode() + b"\n")
            with there.makefile("rb") as answers:
                answer = json.loads(answers.readline() or b'{"code": 1, "err": "the run does not answer\\n"}')
                if name == SERVER and not answer["code"]:
                    _talk(there, answers)
        except OSError as error:
            sys.stderr.write(f"{name}: the run does not answer: {error.strerror}\n")
            return 1
    sys.stdout.write(answer.get("out", ""))
    sys.stderr.write(answer.get("err", ""))
    return int(answer["code"])


def _talk(there: socket.socket, answers: object) -> None:
    """Hand on what the client says, and what it is answered, until one of both has ended."""

    def ask() -> None:
        with contextlib.suppress(OSError):
            while data := os.read(0, 2**16):
                there.sendall(data)
            there.shutdown(socket.SHUT_WR)

    threading.Thread(target=ask, daemon=True).start()
    mark = os.environ.get(_STARTING, "")
    for line in answers:  # type: ignore[attr-defined] # a file of lines
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        if mark and b'"tools":[' in line:
            with contextlib.suppress(OSError):
                os.unlink(mark)
            mark = ""
