"""Settings: the defaults of `defaults.toml`, with a project's own on top."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from math import inf
from pathlib import Path
from typing import Any

from .errors import ConfigError

#: A project's own settings, in its state folder.
CONFIG_FILE = "config.toml"
#: In the environment: the URL of the store; it wins over ``store.url``.
STORE_URL = "HYPERVISOR_STORE"
#: Where the tasks of free text are, a folder a batch, in the state folder.
SPAWNED = "tasks"

#: Tables whose keys are the user's own words, so that any key may be added.
OPEN_TABLES = frozenset(
    {
        "runners",
        "status.words",
        "tasks.aliases",
        "priority.words",
        "triage.aliases",
        "triage.rules",
        "triage.words",
    }
)

#: Figures with which nothing could be claimed, or nothing kept.
MORE_THAN_ZERO = frozenset(
    {
        "claims.lease_seconds",
        "claims.attempts",
        "claims.beat_seconds",
        "tasks.max_bytes",
        "agents.per_session",
        "agents.max_ram_percent",
        "run.verify_seconds",
        "run.turns_away",
        "git.remote_seconds",
        "git.lease_seconds",
        "worktree.seconds",
        "notify.seconds",
        "machine.look_seconds",
        "machine.per_batch",
        "budget.answer_tokens",
        "budget.project_hours",
    }
)


#: Settings that a user gives the plugin in the client, by the name of the option (`userConfig` of the
#: manifest). A project's own settings come first.
OPTIONS = {"workers": ("agents", "per_session"), "budget_usd": ("budget", "session", "usd")}
#: The option that is no setting: the URL of the store.
STORE_OPTION = "store_url"
#: What the client's variables begin with: those of the server, and those of hooks that are commands.
_OPTION_PREFIXES = ("HYPERVISOR_OPTION_", "CLAUDE_PLUGIN_OPTION_")

_hidden: dict[str, str] = {}


@lru_cache(maxsize=1)
def _defaults() -> Mapping[str, Any]:
    """Return the defaults; from JSON beside the compiled code, as reading TOML takes a tenth of a command."""
    source = os.path.join(os.path.dirname(__file__), "defaults.toml")
    found = os.stat(source)
    prefix = sys.pycache_prefix
    kept = f"{prefix}{source}-{found.st_mtime_ns}-{found.st_size}.json" if prefix else ""
    with contextlib.suppress(OSError, ValueError):
        defaults: dict[str, Any] = json.loads(Path(kept).read_text("utf-8"))
        return defaults
    import tomllib  # noqa: PLC0415 - not for a project without settings of its own

    defaults = tomllib.loads(Path(source).read_text("utf-8"))
    if kept and not sys.dont_write_bytecode:
        with contextlib.suppress(OSError):
            os.makedirs(os.path.dirname(kept), exist_ok=True)
            Path(draft := f"{kept}.{os.getpid()}").write_text(json.dumps(defaults), "utf-8")
            os.replace(draft, kept)
    return defaults


def _base() -> Mapping[str, Any]:
    """Return the defaults, as the plugin's user has changed them in the client."""
    base = _defaults()
    for option, (*tables, key) in OPTIONS.items():
        with contextlib.suppress(ValueError):
            number = float(_option(option))
            if 0 < number < inf:
                own: dict[str, Any] = {key: int(number) if number.is_integer() else number}
                for table in reversed(tables):
                    own = {table: own}
                base = _merge(base, own, "", Path("the plugin's options"))
    return base


def _option(name: str) -> str:
    """Return the value of an option of the plugin, "" for none."""
    found = (os.environ.get(f"{prefix}{name.upper()}", "") for prefix in _OPTION_PREFIXES)
    # One that the client does not know stands there as it stands in the manifest.
    return next((value for value in found if value and not value.startswith("${")), "")


def default_settings() -> dict[str, Any]:
    """Return the settings of a project that has no config file, as nested tables."""
    return _merge(_base(), {}, "", Path("defaults.toml"))


def load_settings(state: Path | None) -> dict[str, Any]:
    """Return the settings of the project whose state folder is *state*.

    Args:
        state: The ``.hypervisor`` folder, or None for the defaults.

    Raises:
        ConfigError: ``config.toml`` is not TOML, or names a key that does not exist.
    """
    if state is None:
        return default_settings()
    path = state / CONFIG_FILE
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return default_settings()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from error
    return settings_in(text, path)


def settings_in(text: str, path: Path) -> dict[str, Any]:
    """Return the settings of a project whose config file at *path* has this text.

    Raises:
        ConfigError: It is not TOML, or names a key that does not exist.
    """
    import tomllib  # noqa: PLC0415 - likewise

    try:
        own = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: {error}") from error
    settings = _merge(_base(), own, "", path)
    if settings["runners"]:  # the assignees of what they have worked on
        agents = settings["agents"]
        settings["agents"] = {**agents, "names": [*agents["names"], *settings["runners"]]}
    return settings


def settings_of(state: Path | None) -> dict[str, Any]:
    """Return the settings of the project with this state folder, as its file says now."""
    try:
        stat = os.stat(state / CONFIG_FILE) if state else None
    except OSError:
        stat = None
    return _settings(state, stat and (stat.st_mtime_ns, stat.st_size))


@lru_cache(maxsize=64)
def _settings(state: Path | None, _as_of: tuple[int, int] | None) -> dict[str, Any]:
    settings = load_settings(state)
    if state is not None:  # what was spawned is listed like any other task, whatever globs the user has
        globs = [*settings["tasks"]["globs"], f"{state.name}/{SPAWNED}/*/*.md"]
        settings["tasks"] = {**settings["tasks"], "globs": globs}
    return settings


def hide_store_url() -> None:
    """Take the URL of the store, which may hold a password, out of the environment that children inherit."""
    if url := os.environ.pop(STORE_URL, "") or _option(STORE_OPTION):
        _hidden[STORE_URL] = url
    for prefix in _OPTION_PREFIXES:
        os.environ.pop(f"{prefix}{STORE_OPTION.upper()}", None)


def with_store_url(environ: Mapping[str, str]) -> dict[str, str]:
    """Return *environ* with the URL that was hidden: for a process of our own."""
    return {**environ, **_hidden}


def named_url(settings: Mapping[str, Any]) -> str:
    """Return the URL of the store that the environment or the settings name, "" for none."""
    named = os.environ.get(STORE_URL) or _hidden.get(STORE_URL) or _option(STORE_OPTION)
    return named or str(settings.get("store", {}).get("url", ""))


def _merge(base: Mapping[str, Any], own: Mapping[str, Any], where: str, path: Path) -> dict[str, Any]:
    merged = dict(base)
    for key, value in own.items():
        name = f"{where}.{key}" if where else key
        if key not in base and where not in OPEN_TABLES:
            import difflib  # noqa: PLC0415 - for a fault only

            near = difflib.get_close_matches(key, list(base), n=1)
            hint = f"; did you mean `{near[0]}`?" if near else f"; known here: {', '.join(base)}"
            raise ConfigError(f"{path}: there is no setting `{name}`{hint}")
        default = base.get(key)
        if isinstance(default, Mapping) != isinstance(value, Mapping) and default is not None:
            raise ConfigError(f"{path}: `{name}` must be {_kind(default)}, not {_kind(value)}")
        if isinstance(default, Mapping):
            merged[key] = _merge(default, value, name, path)
        elif default is not None and not _same_kind(default, value):
            raise ConfigError(f"{path}: `{name}` must be {_kind(default)}, not {_kind(value)}")
        elif name in MORE_THAN_ZERO and not value > 0:
            raise ConfigError(f"{path}: `{name}` must be more than 0, not {value}")
        else:
            merged[key] = value
    for key, value in base.items():
        if isinstance(value, Mapping) and key not in own:
            merged[key] = _merge(value, {}, f"{where}.{key}" if where else key, path)
    return merged


def _same_kind(default: Any, value: Any) -> bool:
    # "null" does not exist in TOML: an empty string stands for it where a name is expected.
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, (int, float)):
        return isinstance(value, (int, float))
    return type(default) is type(value)


def _kind(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, (int, float)):
        return "a number"
    if isinstance(value, str):
        return "a string"
    return "a list" if isinstance(value, list) else type(value).__name__
