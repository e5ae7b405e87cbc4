"""The model of the claim protocol (docs/model): it is a model of this code, and it holds."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "docs/model"
CODE = ROOT / "scripts/hypervisor"
_ROW = re.compile(r"^\| ([^|]+) \| `(\S+\.py)` \| `(\w+)` \| `(.+)` \| (?:.*?) ?\|$", re.MULTILINE)
_STEP = re.compile(r"^([a-z]\d):", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Where a step is in the code."""

    steps: tuple[str, ...]
    file: str
    function: str
    code: str


def _rows() -> list[Row]:
    page = (MODEL / "README.md").read_text("utf-8").partition("\n## Map\n")[2]
    return [
        Row(steps=tuple(re.findall(r"`(.+?)`", steps)), file=file, function=function, code=code)
        for steps, file, function, code in _ROW.findall(page)
    ]


ROWS = _rows()


@lru_cache
def _source(file: str, function: str) -> str:
    """Return the text of the one function of that name in a file."""
    text = (CODE / file).read_text("utf-8")
    lines = text.splitlines()
    found = [
        "\n".join(lines[node.lineno - 1 : node.end_lineno])  # with the comments at the lines' ends
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.name == function
    ]
    assert len(found) == 1, f"{file} has {len(found)} functions called {function}"
    return found[0]


# ------------------------------------------------------------------ the map


def test_the_map_and_the_model_name_the_same_steps() -> None:
    steps = set(_STEP.findall((MODEL / "claims.pml").read_text("utf-8")))
    assert len(steps) > 40
    assert {step for row in ROWS for step in row.steps} - {"-"} == steps


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{'-'.join(row.steps)} {row.file} {row.function}")
def test_a_row_of_the_map_names_one_place_in_the_code(row: Row) -> None:
    count = _source(row.file, row.function).count(row.code)
    assert count == 1, f"{row.code!r} stands {count} times in {row.function} of {row.file}"


def _calls() -> Iterator[tuple[str, str, str]]:
    """Yield each system call of the protocol: its function, its line, itself."""
    text = (CODE / "claims/directory.py").read_text("utf-8")
    lines = text.splitlines()
    for function in ast.walk(ast.parse(text)):
        if not isinstance(function, ast.FunctionDef):
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Call) and ast.unparse(node.func).startswith("self._files."):
                yield function.name, lines[node.lineno - 1], ast.get_source_segment(text, node) or ""


CALLS = list(_calls())


def test_the_protocol_makes_system_calls() -> None:
    assert len(CALLS) > 20


@pytest.mark.parametrize(("function", "line", "call"), CALLS)
def test_every_system_call_of_the_protocol_is_on_the_map(function: str, line: str, call: str) -> None:
    on_the_map = [
        row
        for row in ROWS
        if row.file == "claims/directory.py"
        and row.function == function
        and row.code in line
        and call in row.code
    ]
    assert on_the_map, f"{function}: {call} is no step of docs/model/claims.pml"


# ---------------------------------------------------------------- the checks


def _needed() -> None:
    missing = [program for program in ("spin", "gcc") if shutil.which(program) is None]
    if missing:
        why = f"no {' and no '.join(missing)} here; type: apt-get install spin gcc"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)


def _check(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(MODEL / "check"), *words], capture_output=True, text=True, check=False)


RUNS = _check("--list").stdout.split()


@lru_cache
def _verdict(name: str) -> tuple[int, str, dict[str, Any]]:
    done = _check("--json", name)
    return done.returncode, done.stderr, json.loads(done.stdout) if done.stdout else {}


def test_there_are_configurations_and_mutations() -> None:
    assert len(RUNS) > 15


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", RUNS)
def test_the_model_holds_and_each_mutation_is_found(name: str) -> None:
    _needed()
    code, errors, verdict = _verdict(name)
    assert code == 0, errors
    assert not verdict["cut_short"]
    assert not verdict["broken"] or verdict["trail"], "a counterexample that nobody can read"


@pytest.mark.timeout(600)
def test_each_step_of_the_model_is_reached() -> None:
    _needed()
    text = (MODEL / "claims.pml").read_text("utf-8")
    reached: set[int] = set()
    for name in RUNS:
        verdict = _verdict(name)[2]
        reached |= set(verdict["lines"]) - {line for line, _ in verdict["unreached"]}
    starts = [(text.count("\n", 0, match.start()) + 1, match[1]) for match in _STEP.finditer(text)]
    ends = [line for line, _ in starts[1:]] + [text.count("\n") + 1]
    for (line, step), end in zip(starts, ends, strict=True):
        assert reached & set(range(line, end)), f"no run reaches {step}"


@pytest.mark.parametrize("name", RUNS)
def test_the_page_tells_of_each_run(name: str) -> None:
    assert f"| `{name}` |" in (MODEL / "README.md").read_text("utf-8")
