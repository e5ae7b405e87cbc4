"""Acceptance tests: the real Claude Code client, headless, against a scripted Messages API."""
