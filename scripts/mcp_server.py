#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""The MCP server `task_manager`: JSON-RPC on standard input and output, until the input ends.

"first": until its packages are there (`mcp.first_start`); "pending LINE": what it was told before that;
"end ...": what is done once its client is gone (`mcp.client_end`).
"""

import sys

sys.dont_write_bytecode = True  # beside the source; the package says where to instead
from hypervisor.core.bootstrap import require  # noqa: E402

if __name__ == "__main__":
    what, words = "".join(sys.argv[1:2]), sys.argv[2:]
    if what != "first":
        require(__file__)
    from hypervisor.mcp import client_end, first_start, server

    if what == "first":
        sys.exit(first_start.main())
    sys.exit(client_end.main(words) if what == "end" else server.main(words))
