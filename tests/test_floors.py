"""The house has floors, and an import points down only."""

from __future__ import annotations

import ast
import fnmatch
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parent.parent / "scripts"
PACKAGE = SCRIPTS / "hypervisor"

#: From the ground up. A module may import those of its own floor (without a circle) and below.
FLOORS: list[list[str]] = [
    [
        "errors",
        "clock",
        "durable",
        "paths",
        "globs",
        "config",
        "model",
        "keys",
        "vocabulary",
        "launch",
        "bytecode",
        "checkup",
    ],
    [
        "markdown",
        "printable",
        "delimiters",
        "frontmatter",
        "yamltext",
        "entries",
        "bodytext",
        "receipts",
        "machine",
        *("cgroups", "processes", "readings"),
        "scopes",
        "graph",
        "finding",
        "inotify",
    ],
    ["claims", "claims.*"],
    [
        *("queue", "tasks", "rows", "cachefile", "rereading", "index", "queries", "live"),
        *("manifest", "outputs", "lives", "batch", "batches"),
        *("triage", "triage_*", "preflight", "effects"),
        *("moments", "chunks", "chunked", "notes", "records", "mentions", "independence", "ledger"),
    ],
    ["git", "checkout", "work", "worktrees", "merging", "trailers"],
    [
        "commission",
        "orders",
        "events",
        "history",
        "drain",
        "pace",
        "needs",
        "logtail",
        "sessions",
        *("notices", "inbox", "transcript", "errands", "mending", "underway"),
        "leftovers",
        "crowd",
        "selection",
        "endings",
        "schedule",
        "ready",
        "halting",
        "scheduler",
        *("zones", "admission", "overseer", "lineage", "watch", "budget", "spending", "purse"),
        *("checkpoints", "gates"),
        *("learner", "advice", "pacer", "patterns", "hivefile", "hive", "learnings"),
    ],
    ["runners", "runners.*"],
    ["evidence", "checks"],
    [
        "tally",
        "progress",
        "heart",
        "workitem",
        "worker",
        "summary",
        "tasklist",
        "looking",
        "keeping",
        "claiming",
        "holding",
        "desk",
        "crew",
        "operations",
        "review",
        *("bulk", "chunkrun", "deciding", "trail"),
        "doctor",
        "doctor_*",
        "retention",
        "waiting",
    ],
    [
        "oversight",
        "briefing",
        "staff",
        "hiring",
        "shop",
        "attempt",
        "collecting",
        "coordinator",
        "running",
        "care",
        "minding",
        "pacing",
        "handover",
        "spawning",
    ],
    [
        *("answers", "listing", "toolspec", "arguments", "tools", "departure", "telling"),
        *("scope_guard", "hookcall", "hooks", "spawn_guard"),
        *("toolargs", "tools_agents", "tools_events", "workload"),
        *("story", "follow", "labels", "hands", "here", "report", "page", "screen", "serving"),
    ],
    ["console", "cli", "cli_*", "server", "hooking", "gemini_hooks", "attending", "pulse"],
]

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
del MODULES["__init__"]


def floor_of(module: str) -> int | None:
    for number, patterns in enumerate(FLOORS):
        if any(fnmatch.fnmatchcase(module, pattern) for pattern in patterns):
            return number
    return None


def imports_of(module: str) -> set[str]:
    """Return the package's own modules that *module* imports, wherever in it the import stands."""
    path = MODULES[module]
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names if alias.name.split(".")[0] == "hypervisor"]
            found |= {_known(name.split(".")[1:]) for name in names}
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                stem = package[: len(package) - node.level + 1]
            elif (node.module or "").split(".")[0] == "hypervisor":
                stem = []
                node.module = ".".join((node.module or "").split(".")[1:])
            else:
                continue
            stem = stem + (node.module.split(".") if node.module else [])
            found |= {_known([*stem, alias.name]) for alias in node.names}
    return found - {module, ""}


def _known(parts: list[str]) -> str:
    while parts and ".".join(parts) not in MODULES:
        parts = parts[:-1]
    return ".".join(parts)


def test_the_walk_sees_what_is_there() -> None:
    assert {"errors", "claims.files", "claims.port", "machine", "keys"} <= imports_of("claims.directory")
    assert {"claims.directory", "batch", "runners.port"} <= imports_of("worker")


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_its_floor(module: str) -> None:
    assert floor_of(module) is not None, f"{module}: add it to a floor in FLOORS, {Path(__file__).name}"


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down_only(module: str) -> None:
    mine = floor_of(module)
    if mine is None:
        pytest.skip("the module has no floor, which another test says")
    up = sorted(other for other in imports_of(module) if (floor_of(other) or 0) > mine)
    assert not up, f"{module} imports {', '.join(up)}, which stand above it"


def test_no_imports_go_in_a_circle() -> None:
    try:
        list(TopologicalSorter({module: imports_of(module) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


HEAVY = ("yaml", "filelock", "psutil", "rich")
_LIGHT = ("queue", "worker", "batches", "machine", "runners.exec", "launch")
LIGHT = [module for module in MODULES if module.startswith("claims") or module in _LIGHT]


@pytest.mark.parametrize("module", LIGHT)
def test_what_every_claim_imports_costs_no_library(module: str) -> None:
    code = f"import sys, hypervisor.{module}; print(*(m for m in {HEAVY!r} if m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=SCRIPTS, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == ""


def test_help_names_every_command_and_loads_none_of_them() -> None:
    look = (
        "import sys; from hypervisor import cli; "
        "small = cli.parser('--help').format_help(); "
        "loaded = [name for name in sys.modules if 'cli_' in name]; "
        "print(loaded, small == cli.parser().format_help())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", look], cwd=SCRIPTS, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[] True\n"
