"""A plugin with one of each: a command, an agent, a hook and an MCP server. It has nothing to install."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

PLUGIN = "toy"
AGENT = "toy:worker"
#: The server's tool, as the model is told of it.
ECHO = "mcp__plugin_toy_srv__echo"

_SERVER = """
import json, os, sys
TEXT = {"type": "string"}
ECHO = {"name": "echo", "description": "Echo a word.",
        "inputSchema": {"type": "object", "properties": {"word": TEXT}, "required": ["word"]}}
for line in sys.stdin:
    asked = json.loads(line)
    method, given = asked.get("method"), asked.get("params") or {}
    if "id" not in asked:
        continue
    if method == "initialize":
        result = {"protocolVersion": given["protocolVersion"], "capabilities": {"tools": {}},
                  "serverInfo": {"name": "srv", "version": "1"}}
    elif method == "tools/list":
        result = {"tools": [ECHO]}
    elif method == "tools/call":
        said = json.dumps({"word": given["arguments"]["word"], "pid": os.getpid()})
        result = {"content": [{"type": "text", "text": said}]}
    else:
        result = {}
    print(json.dumps({"jsonrpc": "2.0", "id": asked["id"], "result": result}), flush=True)
"""


def write_toy(folder: Path, hook_file: Path, *, always_load: bool = False) -> Path:
    """Write the plugin below *folder*; its hook appends what it is told to *hook_file*."""
    root = folder / PLUGIN
    # The command quotes nothing of the hook's input: it takes it as it comes, a line for each.
    hook = f"cat >> {shlex.quote(str(hook_file))}; echo >> {shlex.quote(str(hook_file))}"
    hooks = {"hooks": {"PostToolUse": [{"matcher": "*", "hooks": [{"type": "command", "command": hook}]}]}}
    server = {"command": sys.executable, "args": ["${CLAUDE_PLUGIN_ROOT}/server.py"]}
    manifest = {
        "name": PLUGIN,
        "version": "1.0.0",
        "description": "A toy.",
        "author": {"name": "A User"},
    }
    files = {
        ".claude-plugin/plugin.json": json.dumps(manifest),
        ".mcp.json": json.dumps({"mcpServers": {"srv": {**server, "alwaysLoad": always_load}}}),
        "hooks/hooks.json": json.dumps(hooks),
        "commands/greet.md": "---\ndescription: Greet.\n---\n\nGreet $ARGUMENTS warmly.\n",
        "agents/worker.md": "---\nname: worker\ndescription: Works.\n---\n\nYou are the toy worker.\n",
        "server.py": _SERVER,
    }
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


def told(hook_file: Path) -> list[dict[str, object]]:
    """Return what the hook was told, one for each time that it ran."""
    text = hook_file.read_text("utf-8") if hook_file.exists() else ""
    return [json.loads(line) for line in text.splitlines() if line]
