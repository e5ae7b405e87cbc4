"""What the documentation names exists: commands, flags, links, settings, classes, tests."""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import hypervisor
from hypervisor.cli import batch_worker
from hypervisor.core.settings import OPEN_TABLES, default_settings

ROOT = Path(__file__).resolve().parents[3]
_TOP = [ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "AGENTS.md")]
DOCS = [*_TOP, *sorted((ROOT / "docs").glob("*.md"))]
#: Documents that tell of today; the changelog may name what is gone.
TODAY = [path for path in DOCS if path.name != "CHANGELOG.md"]
#: From this line on, up to the next heading, a document tells of what is not there yet.
_LATER = re.compile(r"^#+ .*\((?:with the next version|next version)\)", re.IGNORECASE)
_FENCE = re.compile(r"^(```|~~~)")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def _code(path: Path) -> Iterator[str]:
    """Yield each code span, and each line of a code block, that tells of today."""
    fenced = later = False
    for line in path.read_text("utf-8").splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif fenced:
            if not later:
                yield line
        else:
            if line.startswith("#"):
                later = bool(_LATER.match(line))
            if not later:
                yield from re.findall(r"`([^`]+)`", line)


def _flags(parser: argparse.ArgumentParser) -> set[str]:
    return {flag for action in parser._actions for flag in action.option_strings}


def _subparsers(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def _words(code: str, command: str) -> list[str]:
    """Return the words after *command* in a line of code, up to a comment or the next command."""
    found = re.search(rf"(?:^|[\s/|(]){re.escape(command)}\s+(.*)", code)
    if not found:
        return []
    text = re.split(r"\s#\s|\s{3,}|[|;&>]\s|[)`]", re.sub(r"'[^']*'|\"[^\"]*\"", "TEXT", found[1]))[0]
    return text.split()


@pytest.mark.parametrize("path", TODAY, ids=_name)
def test_every_flag_of_the_batch_worker_exists(path: Path) -> None:
    flags = _flags(batch_worker.parser())
    for code in _code(path):
        for word in _words(code, "batch_worker.py"):
            if re.match(r"--?[a-z0]", word):
                assert word.partition("=")[0] in flags, f"{code!r}: no flag {word}"


@pytest.mark.parametrize("path", TODAY, ids=_name)
def test_every_command_exists(path: Path) -> None:
    cli = pytest.importorskip("hypervisor.cli.cli")
    for code in _code(path):
        if not re.match(r"(?:\S*/)?hypervisor\s|\$ (?:\S*/)?hypervisor\s|!?hypervisor\s", code):
            continue
        parser, words = cli.parser(), _words(code, "hypervisor")
        while words and _subparsers(parser):
            assert words[0].startswith("-") or words[0] in _subparsers(parser), f"{code!r}: no {words[0]!r}"
            if words[0].startswith("-"):
                break
            parser = _subparsers(parser)[words.pop(0)]
        for word in words:
            if re.match(r"--[a-z]", word):
                assert word.partition("=")[0] in _flags(parser), f"{code!r}: no flag {word}"


@pytest.mark.parametrize("path", TODAY, ids=_name)
def test_every_module_that_is_named_exists(path: Path) -> None:
    package = ROOT / "scripts/hypervisor"
    folders = "|".join(sorted(one.name for one in package.iterdir() if (one / "__init__.py").exists()))
    for name in re.findall(rf"`((?:{folders})/[\w/]+(?:\.\w+)?)`", path.read_text("utf-8")):
        if "NAME" in name or "NOUN" in name:
            continue
        places = [package / name, package / f"{name}.py", ROOT / name]
        assert any(place.exists() for place in places), f"{_name(path)}: {name}"


@pytest.mark.parametrize("path", DOCS, ids=_name)
def test_every_link_within_the_repository_resolves(path: Path) -> None:
    text = re.sub(r"^(```|~~~).*?^\1", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"(?<!`)\[[^\]\n]+\]\(([^)\s]+)\)", text):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        found = path.parent / file if file else path
        assert found.exists(), f"{_name(path)}: {target}"
        if anchor:
            assert anchor in _anchors(found), f"{_name(path)}: {target}"


def _anchors(path: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def _keys(table: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{where}.{key}" if where else key
        yield name, value
        if isinstance(value, dict):
            yield from _keys(value, name)


def test_the_settings_page_and_the_settings_are_the_same() -> None:
    page = (ROOT / "docs/settings.md").read_text("utf-8")
    defaults = tomllib.loads((ROOT / "scripts/hypervisor/core/defaults.toml").read_text("utf-8"))
    told = set(re.findall(r"^\| `([a-z_0-9.-]+)` \|", page, re.MULTILINE))
    known = dict(_keys(defaults))
    assert told - set(known) == set(), "on the page, but no setting"
    # A table of the user's own words may be told of as one, or key by key.
    open_tables = {name for name in OPEN_TABLES if name in told}
    silent = {
        name
        for name, value in known.items()
        if name not in told
        and not (isinstance(value, dict) and value)
        and not any(name.startswith(f"{table}.") for table in open_tables)
    }
    assert silent == set(), "a setting, but not on the page"


def test_the_default_of_each_plain_setting_is_told_right() -> None:
    page = (ROOT / "docs/settings.md").read_text("utf-8")
    for name, told in re.findall(r"^\| `([a-z_0-9.-]+)` \| `([^`]+)` \|", page, re.MULTILINE):
        value: Any = default_settings()
        for part in name.split("."):
            value = value[part]
        assert tomllib.loads(f"value = {told}")["value"] == value, name


def _classes() -> set[str]:
    names = set()
    for module in pkgutil.walk_packages(hypervisor.__path__, "hypervisor."):
        names |= {
            name
            for name, thing in vars(importlib.import_module(module.name)).items()
            if isinstance(thing, type)
        }
    return names


def test_every_class_that_the_glossary_names_exists() -> None:
    page = (ROOT / "docs/glossary.md").read_text("utf-8")
    told = {
        name
        for row in re.findall(r"^\|.*\|$", page, re.MULTILINE)
        for name in re.findall(r"`([A-Z]\w+)`", row)
    }
    assert told, "the table names no class"
    assert told - _classes() == set()


def test_every_test_that_the_page_on_the_store_names_exists() -> None:
    told = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/store.md").read_text("utf-8")))
    assert told
    there = "".join(path.read_text("utf-8") for path in (ROOT / "tests/integration/store").glob("test_*.py"))
    assert told - set(re.findall(r"^def (test_\w+)", there, re.MULTILINE)) == set()


def test_every_invariant_on_the_page_on_the_store_has_its_test() -> None:
    rows = re.findall(r"^\| (I\d+) \|.*$", (ROOT / "docs/store.md").read_text("utf-8"), re.MULTILINE)
    lines = [
        line
        for line in (ROOT / "docs/store.md").read_text("utf-8").splitlines()
        if re.match(r"\| I\d+ \|", line)
    ]
    assert len(rows) == len(lines) >= 9
    assert [line for line in lines if "`test_" not in line] == []


def test_every_test_that_the_page_on_security_names_exists() -> None:
    told = set(re.findall(r"`(test_\w+)`", (ROOT / "docs/security.md").read_text("utf-8")))
    assert told
    there = "".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    assert told - set(re.findall(r"^def (test_\w+)", there, re.MULTILINE)) == set()


def test_every_claim_on_the_page_on_security_has_its_test() -> None:
    page = (ROOT / "docs/security.md").read_text("utf-8")
    lines = [line for line in page.splitlines() if re.match(r"\| S\d+ \|", line)]
    assert len(lines) >= 12
    assert [line for line in lines if "`test_" not in line] == []
