"""Hypervisor: a queue of work, run through many coding agents at once.

The floors of this package, from the ground up, stand in ``docs/architecture.md``;
``tests/test_floors.py`` holds them.
"""

__version__ = "0.3.0"
