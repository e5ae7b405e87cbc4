"""The packages are layers: an import points down, and no module is too long to read."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from itertools import chain
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[3] / "scripts"
PACKAGE = SCRIPTS / "hypervisor"

#: From the bottom up. A package may import those of the layers below it, and itself.
LAYERS: list[list[str]] = [
    ["core"],
    ["store", "documents"],
    ["tasks", "triage", "git", "learning", "monitor"],
    ["runners"],
    ["queue"],
    ["review", "orchestrator"],
    ["report"],
    ["hooks"],
    ["mcp"],
    ["cli"],
]
PACKAGES = list(chain.from_iterable(LAYERS))
LAYER = {package: number for number, layer in enumerate(LAYERS) for package in layer}
LONGEST = 400
#: Longer ones, each with its reason on its first page.
LONG_FOR_A_REASON = ("store.claims",)

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
MODULES.pop("__init__")


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
                parts = (node.module or "").split(".") if node.module else []
            elif (node.module or "").split(".")[0] == "hypervisor":
                stem, parts = [], (node.module or "").split(".")[1:]
            else:
                continue
            found |= {_known([*stem, *parts, alias.name]) for alias in node.names}
    return found - {module, ""}


def _known(parts: list[str]) -> str:
    while parts and ".".join(parts) not in MODULES:
        parts = parts[:-1]
    return ".".join(parts)


def test_the_walk_sees_imports() -> None:
    assert {"core.errors", "store.base", "store.statements"} <= imports_of("store.claim_rows")


def test_every_module_is_in_one_of_the_packages() -> None:
    assert {module.split(".")[0] for module in MODULES} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_point_down(package: str) -> None:
    below = {name for name, number in LAYER.items() if number < LAYER[package]} | {package}
    wrong = [
        f"{module} -> {other}"
        for module in MODULES
        if module.split(".")[0] == package
        for other in sorted(imports_of(module))
        if other.split(".")[0] not in below
    ]
    assert not wrong, "\n".join(wrong)


def test_no_imports_go_in_a_circle() -> None:
    try:
        list(TopologicalSorter({module: imports_of(module) for module in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(f"imports in a circle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_holds_no_code_of_its_own(package: str) -> None:
    (docstring,) = ast.parse(MODULES[package].read_text("utf-8")).body
    assert isinstance(docstring, ast.Expr)
    assert isinstance(docstring.value, ast.Constant)


def test_no_module_is_too_long() -> None:
    lengths = {module: len(path.read_text("utf-8").splitlines()) for module, path in MODULES.items()}
    assert not {
        module: length
        for module, length in lengths.items()
        if length > LONGEST and module not in LONG_FOR_A_REASON
    }


def test_no_class_name_means_two_things() -> None:
    names: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                names.setdefault(node.name, []).append(module)
    assert not {name: where for name, where in names.items() if len(where) > 1}


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


def test_one_library_of_sqlite_is_in_a_process() -> None:
    # The standard library's brings its own, older copy, and two in a process break each other's file locks
    # (sqlite.org/howtocorrupt.html, 2.2.1).
    found = set()
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            found |= {module for name in names if name.partition(".")[0] in ("sqlite3", "_sqlite3")}
    assert not found
