"""Batches in chunks: how they are split, run in waves, reviewed and approved."""
