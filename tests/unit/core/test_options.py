"""What the plugin's user has set in the client: a default for every project, and the URL of the store."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from commands import ROOT
from hypervisor.core import settings
from hypervisor.core.settings import OPTIONS, STORE_OPTION, default_settings, named_url, settings_in

MANIFEST = json.loads((ROOT / ".claude-plugin/plugin.json").read_text("utf-8"))


@pytest.mark.parametrize("prefix", ["HYPERVISOR_OPTION_", "CLAUDE_PLUGIN_OPTION_"])
def test_an_option_is_a_default_that_a_project_may_change(
    monkeypatch: pytest.MonkeyPatch, prefix: str
) -> None:
    monkeypatch.setenv(f"{prefix}WORKERS", "3")
    monkeypatch.setenv(f"{prefix}BUDGET_USD", "2.5")
    found = default_settings()
    assert (found["agents"]["per_session"], found["budget"]["session"]["usd"]) == (3, 2.5)
    assert found["budget"]["session"]["tokens"] == 0
    own = settings_in("[agents]\nper_session = 5\n", Path("config.toml"))
    assert (own["agents"]["per_session"], own["budget"]["session"]["usd"]) == (5, 2.5)


@pytest.mark.parametrize("value", ["", "${user_config.workers}", "many", "0", "-1", "nan", "inf", "1e400"])
def test_an_option_without_a_figure_changes_nothing(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    before = default_settings()
    monkeypatch.setenv("HYPERVISOR_OPTION_WORKERS", value)
    assert default_settings() == before


def test_the_url_of_the_store_is_an_option_that_children_do_not_inherit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "_hidden", {})
    monkeypatch.setenv("HYPERVISOR_OPTION_STORE_URL", "postgresql://ours")
    assert named_url({}) == "postgresql://ours"
    settings.hide_store_url()
    assert "HYPERVISOR_OPTION_STORE_URL" not in os.environ
    assert named_url({}) == "postgresql://ours"
    assert settings.with_store_url({})["HYPERVISOR_STORE"] == "postgresql://ours"
    monkeypatch.setenv("HYPERVISOR_STORE", "postgresql://theirs")
    assert named_url({}) == "postgresql://theirs"


def test_the_manifest_has_these_options_with_our_defaults_and_hands_them_to_the_server() -> None:
    options = MANIFEST["userConfig"]
    assert set(options) == {*OPTIONS, STORE_OPTION}
    assert options[STORE_OPTION]["sensitive"] is True
    for name, path in OPTIONS.items():
        value = default_settings()
        for part in path:
            value = value[part]
        assert options[name]["default"] == value, name
    assert MANIFEST["mcpServers"]["task_manager"]["env"] == {
        f"HYPERVISOR_OPTION_{name.upper()}": f"${{user_config.{name}}}" for name in options
    }
