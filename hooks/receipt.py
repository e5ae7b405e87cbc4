#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Appends the receipt of a tool call to its task: `PostToolUse` as a script.

JSON in, JSON out; exit code 0 always. For clients that cannot ask our server (`hooks.command.json`); the
functions are the same.
"""

import os
import sys

sys.dont_write_bytecode = True  # beside the source; the package says where to instead
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), os.pardir, "scripts"))
from hypervisor.core.bootstrap import require  # noqa: E402

if __name__ == "__main__":
    require(__file__)
    from hypervisor.hooks.handler import main

    sys.exit(main(sys.stdin.buffer, os.environ, ("PostToolUse", "PostToolUseFailure")))
