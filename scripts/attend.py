#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = []
# ///
"""Wakes a session whose own thread rests when one of its workers or runs has ended.

A hook of the client: its `Stop` as JSON on standard input. Exit code 92: something has ended, which stands on
standard error and is to wake the client; 0 otherwise.
"""

import os
import sys

from hypervisor.core.bootstrap import require

if __name__ == "__main__":
    require(__file__)
    from hypervisor.hooks import waker

    sys.exit(waker.wake_at_stop(sys.stdin.buffer, os.environ))
