#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["python-frontmatter>=1.1", "pyyaml>=6.0.2", "apsw>=3.51.3", "filelock>=3.16", "psutil>=6.0"]
# ///
"""`run_batch.py BATCH`: runs agents on a batch that was made, as `hypervisor run --resume` does.

What a session spawns is run by this, in a process of its own. It needs no more than the MCP server has.
"""

import sys

from hypervisor.core.bootstrap import require

if __name__ == "__main__":
    require(__file__)
    from hypervisor.cli.cli import main
    from hypervisor.cli.console import run

    sys.exit(run(main, ["run", "--json", "--resume", *sys.argv[1:]]))
