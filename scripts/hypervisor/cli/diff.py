"""`hypervisor diff`, `accept`: look at work that was kept on its branch, and merge it."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping

from ..core.settings import settings_of
from ..core.text import safe_text
from .caller import add_caller, service_of
from .console import EXIT_DONE, EXIT_NOTHING, print_json, shown, terminal

#: Colours of a diff's lines on a terminal, by what they begin with.
_COLOURS = {"+": "\x1b[32m", "-": "\x1b[31m", "@": "\x1b[36m", "d": "\x1b[1m"}
_PLAIN = "\x1b[m"


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``diff`` and ``accept`` what they take."""
    diff = commands["diff"]
    diff.add_argument("id", metavar="ID", help="id or path of a task")
    diff.add_argument("--stat", action="store_true", help="only which files, and how much")
    add_caller(diff, _diff)
    accept = commands["accept"]
    accept.add_argument("id", metavar="ID", help="id or path of a task")
    add_caller(accept, _accept)


def _diff(options: Namespace) -> int:
    from ..git.git import Git  # noqa: PLC0415 - not for the help text, as all that follows
    from ..orchestrator.kept_work import find_kept  # noqa: PLC0415

    with service_of(options, acts=False) as service:
        kept = find_kept(service, options.id)
        git = Git(service.project.root)
    span = (kept.base, kept.tip)
    if options.json:
        commits = git.lines("rev-list", "--reverse", kept.tip, f"^{kept.base}", nul=False)
        files = git.lines("diff", "--name-only", "-z", *span)
        print_json({"task_id": kept.task.id, "branch": kept.branch, "base": kept.base, "commit": kept.tip,
                    "commits": commits, "files": files})  # fmt: skip
        return EXIT_DONE if files else EXIT_NOTHING
    where = kept.branch or f"merged as {kept.tip[:12]}"
    print(f"{shown(kept.task.id)}: {where}, against {kept.base[:12]}", file=sys.stderr)
    sys.stderr.flush()
    text = git.run("diff", "--color=never", "--no-ext-diff", *(["--stat"] if options.stat else []), *span)
    if text and sys.stdout.isatty():
        for line in text.split("\n"):  # what a file holds is spelt out, and the colours are ours
            colour = _COLOURS.get(line[:1], "")
            terminal().write(f"{colour}{safe_text(line)}{_PLAIN if colour else ''}\n")
    elif text:
        sys.stdout.buffer.write(f"{text}\n".encode("utf-8", "surrogateescape"))
    return EXIT_DONE if text else EXIT_NOTHING


def _accept(options: Namespace) -> int:
    from ..orchestrator.kept_work import accept, find_kept  # noqa: PLC0415
    from ..queue.batches import open_named  # noqa: PLC0415
    from .trust import require_trust  # noqa: PLC0415

    with service_of(options, acts=False) as service:
        kept = find_kept(service, options.id)
        project = service.project
    if not kept.branch:
        print(f"{shown(kept.task.id)} is merged already, as {kept.tip[:12]}", file=sys.stderr)
        return EXIT_NOTHING
    require_trust(project, settings_of(project.state), [kept.task], options)
    with open_named(project, kept.batch) as batch, service_of(options, batch.number) as service:
        said = accept(project, batch, service, kept)
    if options.json:
        print_json({"task_id": kept.task.id, "branch": kept.branch, "commit": kept.tip, "notes": said})
    else:
        print(f"accepted: {shown(kept.task.id)} is done; {'; '.join(said)}")
    return EXIT_DONE
