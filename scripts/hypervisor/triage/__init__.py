"""Sorts tasks by rule: facts of a task's text in, a decision out."""
