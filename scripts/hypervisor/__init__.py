"""Hypervisor: a queue of work, run through many coding agents at once.

The floors of this package, from the ground up, stand in ``docs/architecture.md``;
``tests/test_floors.py`` holds them.
"""

import sys

from .core.bootstrap import use_compiled_cache

__version__ = "0.4.0"

if sys.dont_write_bytecode:  # as each of our scripts says, before anything of the package is written
    use_compiled_cache()
