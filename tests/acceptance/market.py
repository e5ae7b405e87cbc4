"""A git marketplace on loopback: the files of this checkout that git has, or would take, as a repository."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from commands import ROOT

_WHO = ["-c", "user.name=A User", "-c", "user.email=user@example.invalid"]


def git(folder: Path, *words: str) -> str:
    """Run git without anybody's settings; return what it says."""
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    done = subprocess.run(
        ["git", *_WHO, *words], cwd=folder, env=environment, check=True, capture_output=True, text=True
    )
    return done.stdout


class Market:
    """Serves a repository of the product by `git http-backend`, as a code host does."""

    def __init__(self, folder: Path) -> None:
        self.repository = folder / "hypervisor"
        self.repository.mkdir(parents=True)
        # What a commit of today's files would hold: nothing that git ignores, and new files too.
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
        for name in os.fsdecode(listed.stdout).split("\0"):
            source, target = ROOT / name, self.repository / name
            if name and source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target, follow_symlinks=False)
        git(self.repository, "init", "--quiet", "--initial-branch=main")
        self.commit("Today's files")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(folder))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What a user types after `claude plugin marketplace add`."""
        return f"http://127.0.0.1:{self._server.server_port}/hypervisor/.git"

    @property
    def files(self) -> set[str]:
        """The names that are committed."""
        return set(git(self.repository, "ls-files", "-z").split("\0")) - {""}

    def commit(self, message: str) -> None:
        """Commit all that lies in the repository."""
        git(self.repository, "add", "--all")
        git(self.repository, "commit", "--quiet", "--message", message)


def _handler(root: Path) -> type[BaseHTTPRequestHandler]:
    backend = os.path.join(git(root, "--exec-path").strip(), "git-http-backend")

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            path, _, query = self.path.partition("?")
            length = int(self.headers.get("Content-Length") or 0)
            environment = {
                "PATH": os.environ["PATH"], "GIT_PROJECT_ROOT": str(root), "GIT_HTTP_EXPORT_ALL": "1",
                "REQUEST_METHOD": self.command, "PATH_INFO": path, "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""), "CONTENT_LENGTH": str(length),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""), "REMOTE_ADDR": "127.0.0.1",
                # The repository may lie in a folder of somebody else's (a container's).
                "GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "safe.directory", "GIT_CONFIG_VALUE_0": "*",
            }  # fmt: skip
            done = subprocess.run(
                [backend], env=environment, input=self.rfile.read(length), capture_output=True, check=False
            )
            head, _, body = done.stdout.partition(b"\r\n\r\n")
            fields = [line.split(": ", 1) for line in head.decode().split("\r\n") if ": " in line]
            status = next((value for name, value in fields if name == "Status"), "200 OK")
            self.send_response(int(status.split()[0]))
            for name, value in fields:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = _answer  # noqa: N815 - names of the base class

        def log_message(self, *_: Any) -> None:  # not into the test's output
            pass

    return Handler
