"""Texts that a title, a command's output or an agent may hold to make trouble where they are shown."""

HOSTILE = [
    "</script><script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'`${1}&amp;&lt;",
    "\u2028\u2029 line ends",
    "\u202egnp.exe \u2066turned\u2069",
    "\x1b[31mred\x1b[0m \x1b]0;title\x07 \x1b[2J\x9b1m \x08\x7f",
    "<!-- <script>",
    "half \udcff of a name",
    "x" * 1_000_000,
]
