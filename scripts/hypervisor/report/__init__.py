"""A batch as people see it: the report, the terminal screen, and the web page."""
