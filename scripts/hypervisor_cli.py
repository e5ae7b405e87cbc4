#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""The `hypervisor` command; see `--help`. Exit codes: 0 done, 1 refused, 2 usage, 3 nothing to do."""

import gc
import sys

gc.set_threshold(50_000)  # most commands end before there is anything to collect
sys.dont_write_bytecode = True  # beside the source; the package says where to instead
from hypervisor.core.bootstrap import require  # noqa: E402

if __name__ == "__main__":
    require(__file__)
    from hypervisor.cli.cli import main
    from hypervisor.cli.console import run

    sys.exit(run(main, sys.argv[1:]))
