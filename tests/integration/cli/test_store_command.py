"""A project's state on a PostgreSQL server: `hypervisor store`, and that everything else goes there too."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psycopg
import pytest

from commands import BATCH_WORKER, HYPERVISOR, script, write_task
from hypervisor.store.statements import load, render
from stores import Database


def hypervisor(folder: Path, *words: str, url: str = "", program: tuple[str, ...] = HYPERVISOR) -> str:
    """Return what a command prints on both streams, in an environment built from nothing."""
    env = {"PATH": "/usr/bin:/bin", "HOME": str(folder.parent), **({"HYPERVISOR_STORE": url} if url else {})}
    done = subprocess.run(
        [*program, *words], cwd=folder, env=env, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stdout, done.stdout
    return done.stdout


def clone(folder: Path, schema: str, *, of: Path | None = None) -> Path:
    """Return a clone of a project with two tasks, which uses that schema."""
    git = ("git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    if of is not None:
        subprocess.run([*git, "clone", "-q", str(of), str(folder)], check=True)
    else:
        for name in ("t-1", "t-2"):
            write_task(folder / f"tasks/{name}.md")
        subprocess.run([*git, "init", "-q", str(folder)], check=True)
        subprocess.run([*git, "add", "tasks"], cwd=folder, check=True)
        subprocess.run([*git, "commit", "-qm", "Tasks"], cwd=folder, check=True)
    (folder / ".hypervisor").mkdir()
    (folder / ".hypervisor/config.toml").write_text(f'[store]\nschema = "{schema}"\n')
    return folder


@pytest.mark.slow
def test_two_clones_share_claims_and_items(postgres_db: Database, tmp_path: Path) -> None:
    url, name = postgres_db.url, postgres_db.schema
    one = clone(tmp_path / "one", name)
    two = clone(tmp_path / "two", name, of=one)
    assert "run `hypervisor store init`" in hypervisor(one, "status", url=url)
    assert "made schema" in hypervisor(one, "store", "init", url=url)
    assert "joined schema" in hypervisor(two, "store", "init", url=url)
    # From here on without the variable: children need none.
    assert "t-1 is yours" in hypervisor(one, "task", "claim", "t-1", "--caller", "ada")
    assert "ada" in hypervisor(two, "task", "claim", "t-1", "--caller", "bob")
    machines = json.loads(hypervisor(two, "machines", "--json"))
    assert [[item[0] for item in machine["items"]] for machine in machines] == [["tasks/t-1.md"]]
    queue = one / "D"
    queue.mkdir()
    (queue / "queue.txt").write_text("".join(f"{number}\n" for number in range(20)))
    shown = hypervisor(
        one, "--dir", "D", "--all", "--workers", "2", "--exec", "env X={} env", program=BATCH_WORKER, url=url
    )
    assert "20 success" in shown
    kept = "".join(path.read_text() for path in queue.rglob("*") if path.is_file())
    assert "HYPERVISOR_ITEM" in kept
    assert str(urlsplit(url).password) not in kept
    assert "HYPERVISOR_STORE" not in kept
    (two / "D").mkdir()  # its queue is on the other machine
    assert json.loads(hypervisor(two, "status", "--json"))["batches"][0]["census"]["success"] == 20
    assert not list(tmp_path.rglob("hypervisor.db"))


@pytest.mark.slow
def test_a_result_that_the_remote_refused_is_merged_by_the_command_that_the_run_names(
    postgres_db: Database, tmp_path: Path
) -> None:
    (tmp_path / ".gitconfig").write_text("[user]\nname = Ada\nemail = ada@example.org\n")
    seed, remote, one = (
        clone(tmp_path / "seed", postgres_db.schema),
        tmp_path / "remote.git",
        tmp_path / "one",
    )
    subprocess.run(["git", "clone", "-q", "--bare", str(seed), str(remote)], check=True)
    clone(one, postgres_db.schema, of=remote)
    with (one / ".hypervisor/config.toml").open("a") as file:
        file.write("[git]\npatience_seconds = 1\n")
    hypervisor(one, "store", "init", url=postgres_db.url)
    # Attempts may push their branches; nothing can be merged.
    closed = script(remote / "hooks", "pre-receive", "! grep -v refs/heads/hypervisor/")
    agent = script(tmp_path, "agent", "mkdir src; echo work > src/t-1.txt; git add src; git commit -qm Work")
    words = ("--agent", "exec", "--exec", agent, "--sandbox", "off")
    told = hypervisor(one, "run", "t-1", *words)
    named = re.search(r"1 result waits to be merged: go on with `hypervisor (run --resume \S+)`", told)
    assert named, told
    Path(closed).unlink()
    assert "its work waits to be merged" in hypervisor(one, "run", "t-1", *words)
    assert "fast-forwarded" in hypervisor(one, *named[1].split())
    assert (one / "src/t-1.txt").read_text() == "work\n"


@pytest.mark.slow
def test_another_project_never_uses_the_same_tables(postgres_db: Database, tmp_path: Path) -> None:
    one = clone(tmp_path / "one", postgres_db.schema)
    hypervisor(one, "store", "init", url=postgres_db.url)
    (tmp_path / "other").mkdir()
    other = clone(tmp_path / "other/two", postgres_db.schema)
    (other / "a").write_text("a")
    for words in (("add", "a"), ("commit", "-q", "--amend", "-m", "Another project")):
        subprocess.run(
            ["git", "-c", "user.name=B", "-c", "user.email=b@example.org", *words], cwd=other, check=True
        )
    shown = hypervisor(other, "store", "init", url=postgres_db.url)
    assert "holds another project" in shown
    assert "config set store.schema" in shown
    assert "run `hypervisor store init`" in hypervisor(other, "status", url=postgres_db.url)


def test_a_url_is_neither_taken_from_nor_shown_on_a_command_line(tmp_path: Path) -> None:
    project = clone(tmp_path / "one", "s")
    secret = "postgresql://ada:secret-word@127.0.0.1:1/x"
    assert "command line" in hypervisor(project, "config", "set", "store.url", secret)
    (project / ".hypervisor/config.toml").write_text(f'[store]\nurl = "{secret}"\n')
    for words in (("config", "get"), ("store", "init"), ("status",), ("store", "show"), ("doctor",)):
        assert "secret-word" not in hypervisor(project, *words)


def test_every_statement_is_understood_by_postgresql(postgres_db: Database) -> None:
    postgres_db.open()
    folder = Path(sys.modules[load.__module__].__file__ or "").with_name("sql")
    with psycopg.connect(postgres_db.url, autocommit=True) as connection:
        connection.execute(f"SET search_path TO {postgres_db.schema}")
        for noun in sorted(path.stem for path in folder.glob("*.sql") if not path.stem.startswith("schema")):
            for name, statement in vars(load(noun)).items():
                text = render(statement, "postgres")
                names = dict.fromkeys(re.findall(r"%\((\w+)\)s", text))
                numbers = {one: f"${at}" for at, one in enumerate(names, 1)}
                for one, number in numbers.items():
                    text = text.replace(f"%({one})s", number)
                connection.execute(f"PREPARE {noun}_{name} AS {text.replace('%%', '%')}".encode())
