"""Hypervisor processes a queue with many coding agents in parallel.

``docs/architecture.md`` lists the packages; ``tests/unit/house/test_layers.py`` checks their imports.
"""

import sys

from .core.bootstrap import use_compiled_cache

__version__ = "1.0.0"

if sys.dont_write_bytecode:  # as each of our scripts says, before anything of the package is written
    use_compiled_cache()
