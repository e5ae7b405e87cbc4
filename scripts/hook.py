#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""A hook of the client: JSON in, JSON out. Exit code 0 always: 2 is a veto, and a fault of ours is none."""

import os
import sys

sys.dont_write_bytecode = True  # beside the source; the package says where to instead
from hypervisor.core.bootstrap import require  # noqa: E402

if __name__ == "__main__":
    require(__file__)
    from hypervisor.hooks.handler import main

    sys.exit(main(sys.stdin.buffer, os.environ))
