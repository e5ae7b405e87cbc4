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

#: Folders of modules that stand on several floors; what stands in the folder itself imports nothing.
PACKAGES = [
    *("core", "documents", "tasks", "triage", "git", "learning", "monitor", "queue", "review"),
    *("orchestrator", "report", "hooks", "mcp", "cli"),
]

#: From the ground up. A module may import those of its own floor (without a circle) and below.
FLOORS: list[list[str]] = [
    PACKAGES,
    [
        "core.errors",
        "core.clock",
        "core.durable",
        "core.paths",
        "core.globs",
        "core.config",
        "core.model",
        "core.keys",
        "tasks.vocabulary",
        "core.launch",
        "core.bytecode",
        "cli.checkup",
    ],
    [
        "documents.markdown",
        "core.printable",
        "documents.delimiters",
        "documents.frontmatter",
        "documents.yamltext",
        "documents.entries",
        "documents.bodytext",
        "tasks.receipts",
        "core.machine",
        *("monitor.cgroups", "monitor.processes", "monitor.readings"),
        "tasks.scopes",
        "tasks.graph",
        "tasks.finding",
        "tasks.inotify",
    ],
    ["claims", "claims.*"],
    [
        *(
            "queue.queue",
            "tasks.tasks",
            "tasks.rows",
            "tasks.cachefile",
            "tasks.rereading",
            "tasks.index",
            "tasks.queries",
            "tasks.live",
        ),
        *("manifest", "runners.outputs", "lives", "queue.batch", "queue.batches"),
        *("triage.triage", "triage.triage_*", "tasks.preflight", "tasks.effects"),
        *(
            "review.moments",
            "review.chunks",
            "review.chunked",
            "notes",
            "review.records",
            "tasks.mentions",
            "tasks.independence",
            "ledger",
        ),
    ],
    ["git.git", "git.checkout", "git.work", "git.worktrees", "git.merging", "git.trailers"],
    [
        "core.commission",
        "orders",
        "events",
        "history",
        "drain",
        "report.pace",
        "report.needs",
        "report.logtail",
        "sessions",
        *("hooks.notices", "inbox", "hooks.transcript", "errands", "mending", "underway"),
        "queue.leftovers",
        "crowd",
        "tasks.selection",
        "tasks.endings",
        "orchestrator.schedule",
        "orchestrator.ready",
        "orchestrator.halting",
        "orchestrator.scheduler",
        *(
            "monitor.zones",
            "orchestrator.admission",
            "monitor.overseer",
            "monitor.lineage",
            "monitor.watch",
            "monitor.budget",
            "spending",
            "monitor.purse",
        ),
        *("checkpoints", "gates"),
        *(
            "learning.learner",
            "learning.advice",
            "learning.pacer",
            "learning.patterns",
            "hivefile",
            "learning.hive",
            "learning.learnings",
        ),
    ],
    ["runners", "runners.*"],
    ["orchestrator.evidence", "orchestrator.checks"],
    [
        "queue.tally",
        "queue.progress",
        "queue.heart",
        "queue.workitem",
        "queue.worker",
        "queue.summary",
        "tasks.tasklist",
        "tasks.looking",
        "tasks.keeping",
        "tasks.claiming",
        "tasks.holding",
        "tasks.desk",
        "queue.crew",
        "queue.operations",
        "review.review",
        *("review.bulk", "review.chunkrun", "review.deciding", "review.trail"),
        "cli.doctor",
        "cli.doctor_*",
        "queue.retention",
        "waiting",
    ],
    [
        "git.oversight",
        "orchestrator.briefing",
        "orchestrator.staff",
        "orchestrator.hiring",
        "orchestrator.shop",
        "orchestrator.attempt",
        "orchestrator.collecting",
        "orchestrator.coordinator",
        "orchestrator.running",
        "orchestrator.care",
        "orchestrator.minding",
        "orchestrator.pacing",
        "orchestrator.handover",
        "orchestrator.spawning",
    ],
    [
        *(
            "report.answers",
            "report.listing",
            "mcp.toolspec",
            "mcp.arguments",
            "mcp.tools",
            "mcp.departure",
            "hooks.telling",
        ),
        *("hooks.scope_guard", "hooks.hookcall", "hooks.hooks", "hooks.spawn_guard"),
        *("mcp.toolargs", "mcp.tools_agents", "mcp.tools_events", "report.workload"),
        *(
            "report.story",
            "report.follow",
            "report.labels",
            "report.hands",
            "report.here",
            "report.report",
            "report.page",
            "report.screen",
            "report.serving",
        ),
    ],
    [
        "cli.console",
        "cli.cli",
        "cli.cli_*",
        "mcp.server",
        "hooks.hooking",
        "hooks.gemini_hooks",
        "hooks.attending",
        "hooks.pulse",
    ],
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
    assert {"core.errors", "claims.files", "claims.port", "core.machine", "core.keys"} <= imports_of(
        "claims.directory"
    )
    assert {"claims.directory", "queue.batch", "runners.port"} <= imports_of("queue.worker")


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


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_holds_no_code_of_its_own(package: str) -> None:
    (told,) = ast.parse(MODULES[package].read_text("utf-8")).body
    assert isinstance(told, ast.Expr)
    assert isinstance(told.value, ast.Constant)


def test_no_imports_go_in_a_circle() -> None:
    try:
        list(TopologicalSorter({module: imports_of(module) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


HEAVY = ("yaml", "filelock", "psutil", "rich")
_LIGHT = ("queue.queue", "queue.worker", "queue.batches", "core.machine", "runners.exec", "core.launch")
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
        "import sys; from hypervisor.cli import cli; "
        "small = cli.parser('--help').format_help(); "
        "loaded = [name for name in sys.modules if 'cli_' in name]; "
        "print(loaded, small == cli.parser().format_help())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", look], cwd=SCRIPTS, capture_output=True, text=True, check=True
    )
    assert ended.stdout == "[] True\n"
