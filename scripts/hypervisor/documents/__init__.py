"""Markdown files with frontmatter: read, and edited to the byte. Knows nothing of tasks."""
