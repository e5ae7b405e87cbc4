"""Runs of agents: scheduling, admission, attempts, verdicts, and the coordinator."""
