"""`hypervisor report` and `serve`: a batch as one page, in a file or live."""

from __future__ import annotations

import signal
import sys
import threading
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from types import FrameType

from ..core.errors import UsageError
from ..core.files import replace_file
from ..report.activity import MachineLook
from ..report.page import page
from ..report.report import ReportBuilder
from ..report.web import ReportServer
from .console import EXIT_DONE, EXIT_REFUSED, print_json
from .naming import batch_of, names_batch


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``report`` and ``serve`` what they take."""
    report, serve = commands["report"], commands["serve"]
    names_batch(report)
    report.add_argument("--html", metavar="FILE", help="file to write; - for standard output")
    report.add_argument(
        "--json", action="store_true", help="print the content of the page as one JSON document"
    )
    report.set_defaults(action=_report)
    names_batch(serve)
    serve.add_argument(
        "--port", type=int, default=0, metavar="N", help="port on 127.0.0.1 (default: a free one)"
    )
    serve.add_argument("--json", action="store_true", help="print the address as one JSON document")
    serve.set_defaults(action=_serve)


def _report(options: Namespace) -> int:
    if not (options.html or options.json):
        raise UsageError("say where to: --html FILE, or --json")
    with ReportBuilder(batch_of(options)) as builder:
        builder.look()
        report = builder.report()
    if options.html == "-":
        print(page(report))
    elif options.html:
        path = Path(options.html)
        if path.is_dir() or not path.absolute().parent.is_dir():
            raise UsageError(f"--html {path}: name a file in a folder that is there")
        document = page(report).encode()
        replace_file(path, document)
        print(f"{path}: {len(report['rows'])} items, {len(document) / 2**20:.1f} MiB", file=sys.stderr)
    if options.json:
        print_json(report)
    return EXIT_DONE if report["closes"] else EXIT_REFUSED


def _serve(options: Namespace) -> int:
    if not 0 <= options.port <= 65535:
        raise UsageError(f"--port {options.port}: must be 0 to 65535")
    with ReportBuilder(batch_of(options)) as builder:
        builder.machine = MachineLook.of(builder.batch)
        try:
            server = ReportServer(builder, options.port)
        except OSError as error:
            text = f"--port {options.port}: {error.strerror}; leave it out for a free one"
            raise UsageError(text) from error
        with server:
            _until_stopped(server, builder.batch.id, options)
    return EXIT_DONE


def _until_stopped(server: ReportServer, batch: str, options: Namespace) -> None:
    def end(_number: int, _frame: FrameType | None) -> None:
        # From a thread of its own: it waits for the loop that this handler has interrupted.
        threading.Thread(target=server.shutdown, daemon=True).start()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, end)
    if options.json:
        print_json({"address": server.address, "batch": batch})
        sys.stdout.flush()
    else:
        print(f"{server.address}\nCtrl-C ends it", flush=True)
    server.serve_forever(poll_interval=0.2)
