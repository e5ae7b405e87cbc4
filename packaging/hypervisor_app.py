"""The `hypervisor` command of an installed wheel, in which this file is ``hypervisor_app/__init__.py``.

Beside this file is the folder of the plugin, as in a checkout: headless agents load it from there.
"""

from __future__ import annotations

import gc
import os
import sys


def main() -> int:
    """Run the command that was typed; return its exit code."""
    gc.set_threshold(50_000)  # most commands end before there is anything to collect
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "scripts"))
    from hypervisor.cli.cli import main as command  # noqa: PLC0415 - found on the path that is set here
    from hypervisor.cli.console import run  # noqa: PLC0415

    return run(command, sys.argv[1:])
