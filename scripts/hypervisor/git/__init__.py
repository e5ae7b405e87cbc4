"""Git by its command line: worktrees, their work, merging, and the user's own checkout."""
