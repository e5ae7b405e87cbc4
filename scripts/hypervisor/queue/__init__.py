"""Batches over a queue of items: workers, operations from outside, summaries, retention."""
