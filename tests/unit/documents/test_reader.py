"""What is read is what the YAML says, and what stands in the bytes that an edit replaces."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import frontmatter
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hypervisor.core.errors import Unreadable
from hypervisor.core.model import FileEdit
from hypervisor.documents.reader import ParsedFile, read
from hypervisor.documents.yaml_edit import Value, apply, parse
from made_documents import KEYS, NEW_VALUES, documents

ROOT = Path(__file__).parents[3]
CORPUS = sorted([*(ROOT / "tests/data/tasks").glob("*.md"), *(ROOT / "examples/tasks").rglob("*.md")])
REFUSED = sorted((ROOT / "tests/data/tasks/refused").glob("*.md"))
WISHES: list[tuple[str, Value]] = [
    ("status", "done"), ("assignee", "no"), ("assignee", ["bot", "it's"]), ("id", None), ("new", "007"),
]  # fmt: skip


def readable(paths: list[Path]) -> list[Path]:
    found = []
    for path in paths:
        try:
            read(path.read_bytes(), str(path))
        except Unreadable:
            continue
        found.append(path)
    return found


def plain(text: str) -> str:
    """Return *text* with the line ends that PyYAML counts as one."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def said(parsed: ParsedFile) -> dict[str, Any]:
    """Return what PyYAML's own safe loader says of the frontmatter."""
    # YAML 1.1, which it reads, breaks lines at U+2028; no editor does.
    text = plain(parsed.text[parsed.top : parsed.bottom]).replace("\u2028", "\\u2028")
    values = yaml.load(text, Loader=yaml.CSafeLoader)
    return {key: _restored(value) for key, value in (values or {}).items()}


def _restored(value: Any) -> Any:
    return value.replace("\\u2028", "\u2028") if isinstance(value, str) else value


def require_one_truth(parsed: ParsedFile) -> None:
    """Hold that the values are YAML's, and each that of the bytes that its entry names."""
    assert repr(dict(parsed.values)) == repr(said(parsed))
    for key, entry in parsed.entries.items():
        source = plain(parsed.text[entry.start : entry.end]).replace("\u2028", "\\u2028")
        if entry.fixed or key == "<<":  # an alias says nothing by itself
            continue
        lead = "" if source.startswith("\n") else " "
        alone = yaml.load(f"key:{lead}{source}\n", Loader=yaml.CSafeLoader)["key"]
        value = parsed.values[key]
        if source[:1] in ("|", ">"):  # the blank lines below a block stay when it is replaced
            alone, value = alone.rstrip(), value.rstrip()
        assert repr(_restored(alone)) == repr(value)


def require_edit_is_read(data: bytes, key: str, value: Value) -> None:
    """Hold that an edit is read as what was asked, everything else as before, or refused."""
    before = parse(data, "t.md")
    try:
        edit = before.edit(key, value)
    except Unreadable:
        return
    after = read(apply(data, FileEdit(path="t.md", keys=(edit,)))[0], "t.md")
    require_one_truth(after)
    wanted = {**before.values, key: value}
    if value is None:
        del wanted[key]
    assert repr(sorted(after.values.items())) == repr(sorted(wanted.items()))
    assert after.body == before.body


def test_there_is_a_corpus() -> None:
    assert len(readable(CORPUS)) >= 25
    assert len(REFUSED) >= 8


@pytest.mark.parametrize("path", readable(CORPUS), ids=lambda path: path.name)
def test_a_file_of_the_corpus_is_one_truth_to_reader_and_editor(path: Path) -> None:
    data = path.read_bytes()
    require_one_truth(read(data, str(path)))
    for key, value in WISHES:
        require_edit_is_read(data, key, value)


@pytest.mark.parametrize("path", readable(CORPUS), ids=lambda path: path.name)
def test_python_frontmatter_alone_reads_the_same_where_it_can(path: Path) -> None:
    parsed = read(path.read_bytes(), str(path))
    if parsed.newline == "\r" or parsed.text[parsed.bottom] == "." or "\u2028" in parsed.text:
        pytest.skip("its own handler knows no lone CR, no ... and no line separator within a value")
    metadata, content = frontmatter.parse(parsed.text.removeprefix("\ufeff"))
    assert metadata == parsed.values
    assert content == plain(parsed.body).strip()


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.name)
def test_what_a_task_could_be_misread_from_is_refused(path: Path) -> None:
    with pytest.raises(Unreadable):
        read(path.read_bytes(), str(path))


def test_a_key_may_bear_any_name_of_the_library_s_own() -> None:
    text = b"---\ncontent: a\nhandler: b\ntext: c\nmetadata: d\n---\nbody\n"
    assert read(text, "t.md").values == {"content": "a", "handler": "b", "text": "c", "metadata": "d"}


FEW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
THOUSANDS = settings(max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@FEW
@given(documents(), st.sampled_from([*KEYS, "new"]), NEW_VALUES)
def test_a_generated_file_is_one_truth_to_reader_and_editor(data: bytes, key: str, value: Value) -> None:
    require_one_truth(read(data, "t.md"))
    require_edit_is_read(data, key, value)


@pytest.mark.slow
@pytest.mark.timeout(900)
@THOUSANDS
@given(documents(), st.sampled_from([*KEYS, "new"]), NEW_VALUES)
def test_five_thousand_generated_files_are_one_truth(data: bytes, key: str, value: Value) -> None:
    require_one_truth(read(data, "t.md"))
    require_edit_is_read(data, key, value)
