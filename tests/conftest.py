"""What every test stands on: no settings of the user's."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def _nobody_in_particular(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Take away what the machine's user has set, so that no test reads or writes it."""
    for name in list(os.environ):
        if name.startswith("HYPERVISOR_") or name == "CLAUDE_PROJECT_DIR":
            monkeypatch.delenv(name)
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
