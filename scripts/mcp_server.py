#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["python-frontmatter>=1.1", "pyyaml>=6.0.2", "apsw>=3.51.3", "filelock>=3.16", "psutil>=6.0", "inotify-simple>=2.0"]
# ///
"""The MCP server `task_manager`: JSON-RPC on standard input and output, until the input ends.

With "end": what is done once its client is gone (`mcp.client_end`).
"""

import gc
import sys

gc.disable()  # while what stays is loaded: a sixth of the time that it takes
sys.dont_write_bytecode = True  # beside the source; the package says where to instead
from hypervisor.core.bootstrap import require  # noqa: E402

if __name__ == "__main__":
    require(__file__)
    from hypervisor.mcp import client_end, server

    gc.enable()
    sys.exit(client_end.main(sys.argv[2:]) if sys.argv[1:2] == ["end"] else server.main())
