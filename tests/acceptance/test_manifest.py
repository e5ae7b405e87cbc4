"""What the manifest asks of the client: options that reach the server, and tools that are loaded at once."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from acceptance.api import ScriptedApi, say
from acceptance.conftest import NewClient
from acceptance.product import Tasks
from commands import ROOT


def variant(folder: Path, **server: Any) -> Path:
    """Return the plugin of this checkout, whose server's entry in the manifest is changed."""
    folder.mkdir()
    for path in ROOT.iterdir():
        if path.name not in (".claude-plugin", ".git"):
            (folder / path.name).symlink_to(path)
    shutil.copytree(ROOT / ".claude-plugin", folder / ".claude-plugin")
    manifest = json.loads((ROOT / ".claude-plugin/plugin.json").read_text("utf-8"))
    manifest["mcpServers"]["task_manager"] |= server
    (folder / ".claude-plugin/plugin.json").write_text(json.dumps(manifest), "utf-8")
    return folder


def test_the_server_gets_what_the_user_has_set(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path
) -> None:
    told = tmp_path / "told"
    start = f"env | grep ^HYPERVISOR_OPTION > {told}; exec sh {ROOT}/scripts/launch mcp_server.py"
    plugin = variant(tmp_path / "plugin", args=["-c", start])
    user = client(cwd=git_project)
    options = {"workers": "3", "budget_usd": "2.5", "store_url": "postgresql://db.example.org/hv"}
    config = [word for name, value in options.items() for word in ("--config", f"{name}={value}")]
    for words in (
        ["marketplace", "add", str(plugin)],
        ["install", "hypervisor@hypervisor"],
        ["disable", "hypervisor@hypervisor"],
        ["enable", "hypervisor@hypervisor"],
    ):
        more = config if words[0] == "install" else []
        ended = user.command("plugin", *words, *more)
        assert ended.code == 0, ended.out + ended.err
    api.main(say("Hello."))
    session = user.run("Hello").passed()
    assert not session.init.get("plugin_errors")
    assert {one["status"] for one in session.init["mcp_servers"]} == {"connected"}
    lines = told.read_text("utf-8").splitlines()
    assert dict(line.split("=", 1) for line in lines) == {
        f"HYPERVISOR_OPTION_{name.upper()}": value for name, value in options.items()
    }


def size(part: object) -> int:
    return len(json.dumps(part, separators=(",", ":")))


def test_the_page_says_what_the_tools_cost_in_each_session(
    api: ScriptedApi, client: NewClient, git_project: Path, tmp_path: Path
) -> None:
    Tasks(git_project).add("t-1")
    variants: Mapping[str, list[Path]] = {
        "none": [], "later": [variant(tmp_path / "later", alwaysLoad=False)],
        "always": [variant(tmp_path / "always", alwaysLoad=True)],
    }  # fmt: skip
    sizes = {}
    for name, plugins in variants.items():
        api.main(say("Hello."), when=f"Hello {name}")
        client(cwd=git_project, plugins=plugins, tool_search=True).run(f"Hello {name}").passed()
        sizes[name] = size(api.of(f"Hello {name}").turns[0].request)
    page = (ROOT / "docs/plugin.md").read_text("utf-8")
    figures = re.findall(r"(\d+\.\d) kB", page[page.index("## What a session costs") :])
    whole, loaded = (float(figure) * 1000 for figure in figures[:2])
    assert abs(sizes["always"] - sizes["none"] - whole) < 0.1 * whole, sizes
    assert abs(sizes["always"] - sizes["later"] - loaded) < 0.1 * loaded, sizes
