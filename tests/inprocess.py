"""A user's shell whose commands run in the test's own process: nothing is started, which costs little.

What is started with `Shell.start` is a process of its own, as ever.
"""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from commands import BATCH_WORKER, HYPERVISOR, Ended, Shell
from hypervisor.cli import batch_worker, cli
from hypervisor.cli.console import run
from hypervisor.queue import batch


class InProcess(Shell):
    """A `Shell` that runs commands to their end without a process."""

    def worker(self, *words: str, cwd: Path | None = None, **options: Any) -> Ended:
        """Run ``batch_worker.py`` with *words* to its end."""
        return self._call(batch_worker.main, [BATCH_WORKER[1], *words], cwd, **options)

    def hypervisor(self, *words: str, cwd: Path | None = None, **options: Any) -> Ended:
        """Run ``hypervisor`` with *words* to its end."""
        return self._call(cli.main, [HYPERVISOR[1], *words], cwd, **options)

    def _call(
        self,
        main: Callable[[Sequence[str]], int],
        words: list[str],
        cwd: Path | None,
        stdin: bytes = b"",
        **_: Any,
    ) -> Ended:
        batch._project_above.cache_clear()  # a process looks once where projects are
        out, err = io.BytesIO(), io.BytesIO()
        with self._as_user(words, cwd or self.cwd, stdin, out, err):
            try:
                code = run(main, words[1:])
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 0
        said, complained = (part.getvalue().decode("utf-8", "replace") for part in (out, err))
        return Ended(code, said, complained, out.getvalue())

    @contextlib.contextmanager
    def _as_user(
        self, words: list[str], cwd: Path, stdin: bytes, out: io.BytesIO, err: io.BytesIO
    ) -> Iterator[None]:
        environment, folder, argv = dict(os.environ), os.getcwd(), sys.argv
        streams = sys.stdin, sys.stdout, sys.stderr
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        os.environ.clear()
        os.environ.update(self.environment)
        os.chdir(cwd)
        sys.argv = words
        sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
        sys.stdout = io.TextIOWrapper(out, encoding="utf-8", errors="surrogateescape", write_through=True)
        sys.stderr = io.TextIOWrapper(err, encoding="utf-8", errors="backslashreplace", write_through=True)
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.detach()
            sys.stdin, sys.stdout, sys.stderr = streams
            for number, handler in handlers.items():
                signal.signal(number, handler)
            sys.argv = argv
            os.chdir(folder)
            os.environ.clear()
            os.environ.update(environment)


@contextlib.contextmanager
def in_process(folder: Path) -> Iterator[InProcess]:
    """Give a user whose home and current folder lie below *folder*; end all that it started."""
    home, cwd = folder / "home", folder / "here"
    home.mkdir(exist_ok=True)
    cwd.mkdir(exist_ok=True)
    with InProcess(home, cwd) as made:
        yield made
