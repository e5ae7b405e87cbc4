"""A home for one run of the Gemini CLI: the user's own, with the settings that the run needs.

The client reads its settings from one folder for each user, and no flag adds to them. So a run gets a
folder of its own (``GEMINI_CLI_HOME``): links to what the user has there, the login among it, and two
files of ours, settings and policy. The user's folder is read and never written to by us.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import UsageError
from .gemini_events import PREFIX, SERVER

#: What is a session's own, or ours here; everything else of the user's is linked.
_OWN = frozenset({"settings.json", "policies", "tmp", "history", "projects.json", "trustedFolders.json"})
#: How often a request is tried in all. The client's ten take minutes, and then the next task's begin.
_ATTEMPTS = 3
#: Milliseconds that a hook may take before the client goes on without its answer, as if it had said yes:
#: so long, as a machine that is busy enough needs a minute for one.
_HOOK_MS = 600_000
#: Tools that reach beyond the folder; nothing mechanical needs them.
_FAR = ("web_fetch", "google_web_search", "invoke_agent", "activate_skill", "save_memory", "enter_plan_mode")
_GIT = ("git", "/usr/bin/git", "/usr/local/bin/git", "/bin/git", "gh")
_SHELL_RULE = re.compile(r"run_shell_command\((.*)\)", re.DOTALL)
#: A comment, or a text, in which a comment's signs mean nothing.
_COMMENT = re.compile(r'("(?:\\.|[^"\\])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What a run needs of its home."""

    #: Folder of the product.
    plugin: str
    #: What the server and the hooks are told in their environment.
    environment: Mapping[str, str]
    #: The task's own command, "" for none.
    verify: str = ""
    #: What else may be used, in the client's words: a tool's name, or ``run_shell_command(PREFIX)``.
    allowed: Sequence[str] = ()
    #: Whether it runs in a sandbox of ours, in which the client's own cannot be made.
    contained: bool = False


def make_home(home: Path, users: Path, need: Need) -> None:
    """Make the folder *home* for a run; *users* is the user's own ``.gemini``, which need not exist.

    Raises:
        UsageError: The user's settings cannot be read.
        OSError: It could not be written.
    """
    inner = home / ".gemini"
    (inner / "policies").mkdir(mode=0o700, parents=True)
    os.chmod(home, 0o700)  # the user's settings may hold secrets of other servers
    for entry in sorted(users.iterdir()) if users.is_dir() else ():
        if entry.name not in _OWN:
            (inner / entry.name).symlink_to(entry)
    for policy in sorted((users / "policies").glob("*.toml")):
        (inner / "policies" / f"user-{policy.name}").symlink_to(policy)
    for name in (".env",):  # where the client looks for a key beside its own folder
        if (users.parent / name).is_file():
            (home / name).symlink_to(users.parent / name)
    if need.verify:
        verify_script(home).write_text(f"{need.verify}\n", "utf-8")
    settings = settings_for(read_settings(users / "settings.json"), need)
    (inner / "settings.json").write_text(json.dumps(settings, indent=1), "utf-8")
    (inner / "policies/hypervisor.toml").write_text(policy_for(home, need), "utf-8")


def verify_script(home: Path) -> Path:
    """Return where the task's own command stands as a script.

    The client looks at each part of a command line by itself, so that a rule can allow a whole one only
    if it is a single command.
    """
    return home / "verify"


def read_settings(path: Path) -> dict[str, Any]:
    """Return the user's settings; comments in them are passed over, as the client does.

    Raises:
        UsageError: They cannot be read.
    """
    try:
        text = path.read_text("utf-8")
        found = json.loads(_COMMENT.sub(lambda part: part[1] or " ", text) or "{}")
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {error}; mend the file, as the Gemini CLI reads it as well") from error
    if not isinstance(found, dict):
        raise UsageError(f"{path}: holds no table of settings; mend the file")
    return found


def settings_for(users: Mapping[str, Any], need: Need) -> dict[str, Any]:
    """Return the user's settings with what a run needs."""
    made = json.loads(json.dumps(users))
    general = made.setdefault("general", {})
    with contextlib.suppress(TypeError, ValueError):
        general["maxAttempts"] = min(int(general.get("maxAttempts", _ATTEMPTS)), _ATTEMPTS)
    general |= {"enableAutoUpdate": False, "enableAutoUpdateNotification": False}
    security = made.setdefault("security", {})
    # So that no command of the agent's sees the key; the client lets it through by default.
    security.setdefault("environmentVariableRedaction", {})["enabled"] = True
    if need.contained:
        made.setdefault("tools", {})["sandbox"] = False
    starter = os.path.join(need.plugin, "scripts/launch")
    made.setdefault("mcpServers", {})[SERVER] = {
        "command": "sh", "args": [starter, "mcp_server.py"], "env": dict(need.environment), "trust": True,
    }  # fmt: skip
    if isinstance(made.get("mcp"), dict) and isinstance(made["mcp"].get("allowed"), list):
        made["mcp"]["allowed"].append(SERVER)
    hooks = made.setdefault("hooks", {})
    for event, matcher in (
        ("BeforeTool", f"write_file|replace|run_shell_command|read_.*|grep_search|{PREFIX}.*"),
        ("AfterTool", ".*"),
    ):
        hooks.setdefault(event, []).append(_hook(need, matcher))
    return dict(made)


def _hook(need: Need, matcher: str) -> dict[str, Any]:
    told = " ".join(f"{name}={shlex.quote(value)}" for name, value in sorted(need.environment.items()))
    starter = shlex.quote(os.path.join(need.plugin, "scripts/launch"))
    command = f'{told} CLAUDE_CODE_SESSION_ID="$GEMINI_SESSION_ID" sh {starter} gemini_hook.py'.strip()
    one = {"type": "command", "name": "hypervisor", "command": command, "timeout": _HOOK_MS}
    return {"matcher": matcher, "hooks": [one]}


def policy_for(home: Path, need: Need) -> str:
    """Return the rules of a run: what the client refuses by itself, before any hook is asked.

    A rule of the user's own policies counts as much as one of these, by its priority.
    """
    rules: list[dict[str, Any]] = []
    if need.verify:
        script = re.escape(json.dumps(f"sh {shlex.quote(str(verify_script(home)))}")[1:-1])
        rules.append(_rule("allow", 990, commandRegex=f'{script}"', allowRedirection=True))
    for word in need.allowed:
        shell = _SHELL_RULE.fullmatch(word)
        rules.append(
            _rule("allow", 985, commandPrefix=shell[1], allowRedirection=True)
            if shell
            else _rule("allow", 985, toolName=word)
        )
    why = "No git: what you leave in the task's files is committed for you."
    rules.append(_rule("deny", 980, commandPrefix=list(_GIT), denyMessage=why))
    why = "The task does not need it; change the task's files, verify, and report."
    rules.append(_rule("deny", 900, toolName=list(_FAR), modes=["default", "autoEdit"], denyMessage=why))
    return "\n".join(_toml(rule) for rule in rules)


def _rule(decision: str, priority: int, **keys: Any) -> dict[str, Any]:
    if "toolName" not in keys:
        keys = {"toolName": "run_shell_command", **keys}
    return {**keys, "decision": decision, "priority": priority}


def _toml(rule: Mapping[str, Any]) -> str:
    # JSON's texts, lists, numbers and truth are TOML's as well, but for one letter.
    lines = [f"{key} = {json.dumps(value)}".replace("\x7f", "\\u007f") for key, value in rule.items()]
    return "[[rule]]\n" + "\n".join(lines) + "\n"
