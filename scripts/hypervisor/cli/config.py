"""`hypervisor config`: prints and changes settings of the project, in `.hypervisor/config.toml`."""

from __future__ import annotations

import os
import tomllib
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError, UsageError
from ..core.files import replace_file
from ..core.project import Project, find_project
from ..core.settings import CONFIG_FILE, OPEN_TABLES, STORE_URL, load_settings, settings_in
from ..core.toml_edit import set_value, toml_literal
from .console import EXIT_DONE, Parser, did_you_mean, print_json


def add_commands(commands: Mapping[str, ArgumentParser]) -> None:
    """Add to ``config`` what it takes."""
    verbs = commands["config"].add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=Parser)
    text = "print a setting as it holds for this project, its default included"
    get = verbs.add_parser("get", help=text, description=text, allow_abbrev=False)
    get.add_argument("key", nargs="?", default="", metavar="KEY", help="such as claims.attempts, or a table")
    get.set_defaults(action=_get)
    text = f"change a setting in {CONFIG_FILE}; comments and all other lines stay"
    put = verbs.add_parser("set", help=text, description=text, allow_abbrev=False)
    put.add_argument("key", metavar="KEY", help="such as claims.attempts")
    put.add_argument("value", metavar="VALUE", help="a text as it is; a list as TOML, or with commas")
    put.set_defaults(action=_set)
    for verb in (get, put):
        verb.add_argument("--json", action="store_true", help="print one JSON document")


def _get(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    value = _value(_shown(load_settings(project.state)), options.key)
    if options.json:
        print_json(value)
    elif isinstance(value, Mapping):
        for name, one in _flat(value, options.key):
            print(f"{name} = {toml_literal(one)}")
    else:
        print(value if isinstance(value, str) else toml_literal(value))
    return EXIT_DONE


def _set(options: Namespace) -> int:
    project = find_project(Path.cwd(), os.environ)
    if options.key == "store.url" and options.value:
        raise UsageError(
            "every user of the machine can read a command line, and the URL may hold a password: "
            f"write it into [store] of {project.state / CONFIG_FILE}, or set {STORE_URL} and run "
            "`hypervisor store init`"
        )
    before = load_settings(project.state)
    parts = options.key.split(".")
    value = _parsed(options.key, options.value, before)
    path = project.state / CONFIG_FILE
    text = set_value(_text(path), parts, value)
    settings_in(text, path)  # what makes no sense is not written
    _write(project, path, text)
    if options.json:
        print_json({"key": options.key, "value": value, "file": str(path)})
    else:
        print(f"{options.key} = {toml_literal(value)} ({os.path.relpath(path)})")
    return EXIT_DONE


def _shown(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings without what may hold a password."""
    url = settings["store"]["url"] and "(hidden; see `hypervisor store show`)"
    return {**settings, "store": {**settings["store"], "url": url}}


def _value(settings: Mapping[str, Any], key: str) -> Any:
    """Return a setting, or a table of them; all for ""."""
    found: Any = settings
    for at, part in enumerate(key.split(".") if key else ()):
        if not isinstance(found, Mapping) or part not in found:
            where = ".".join(key.split(".")[:at])
            known = (
                [f"{where}.{name}" if where else name for name in found] if isinstance(found, Mapping) else []
            )
            raise UsageError(f"there is no setting {key}{did_you_mean(key, known)}")
        found = found[part]
    return found


def _parsed(key: str, text: str, settings: Mapping[str, Any]) -> Any:
    """Return what was typed as a value of the kind that the setting is of."""
    table, _, name = key.rpartition(".")
    if table in OPEN_TABLES and name not in _value(settings, table):
        default = next(iter(_value(settings, table).values()), text)  # like its neighbours
    else:
        default = _value(settings, key)
    if isinstance(default, Mapping):
        raise UsageError(f"{key} is a table; set one of its keys: {', '.join(list(default)[:8])}")
    if isinstance(default, str):
        return text
    try:
        value = tomllib.loads(f"x = {text}")["x"] if "\n" not in text else text
    except tomllib.TOMLDecodeError:
        value = text
    if isinstance(default, list) and not isinstance(value, list):
        return [part.strip() for part in text.split(",") if part.strip()]
    return value


def _flat(table: Mapping[str, Any], above: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        name = f"{above}.{key}" if above else key
        if isinstance(value, Mapping):
            yield from _flat(value, name)
        else:
            yield name, value


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        return ""
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error


def _write(project: Project, path: Path, text: str) -> None:
    project.prepare()
    replace_file(path, text.encode())
