"""The page that shows a batch: one HTML document, alone in its file. Pure but for its own template.

Nothing in it is asked for from anywhere else, and its policy (CSP) forbids the browser to: what runs is
the one script whose hash stands in it. What strangers wrote is JSON that no parser of HTML looks into.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Mapping
from functools import lru_cache
from importlib import resources
from typing import Any

_SCRIPTS = ("page_dom.js", "page_charts.js", "page_table.js", "page.js")
_HOLE = re.compile(r"\{(csp|title|style|plain|data|script)\}")
#: In a script element these could end it, or begin a comment in it.
_MARKUP = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026"}


def page(report: Mapping[str, Any] | None, *, title: str = "") -> str:
    """Return the document.

    Args:
        report: What `report.ReportBuilder.report` returned; None for a page that asks its server for it.
        title: What stands in the browser's tab where there is no report.
    """
    style, script = _style(), _script()
    live = report is None
    if report is not None:
        title = str(report["batch"]["id"])
    census = report["census"] if report is not None else {}
    plain = ", ".join(f"{number} {word}" for word, number in census.items())
    parts = {
        "csp": html.escape(policy(live=live)),
        "title": html.escape(f"{title}: batch"),
        "style": style,
        "plain": html.escape(plain or "A batch"),
        "data": embedded(report),
        "script": script,
    }
    return _HOLE.sub(lambda hole: parts[hole[1]], _text("page.html"))


def policy(*, live: bool) -> str:
    """Return the page's Content-Security-Policy.

    Args:
        live: Whether the page asks its own server for news.
    """
    return "; ".join([
        "default-src 'none'",
        f"script-src '{_hash(_script())}'",
        f"style-src '{_hash(_style())}'",
        "img-src data:",
        "connect-src 'self'" if live else "connect-src 'none'",
        "base-uri 'none'",
        "form-action 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ])  # fmt: skip


def embedded(data: object) -> str:
    """Return *data* as JSON that may stand in a script element, whatever the texts in it say."""
    # ASCII alone: so neither U+2028 nor half of a character is left in it either.
    return json.dumps(data, ensure_ascii=True, separators=(",", ":"), allow_nan=False).translate(_MARKUP)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@lru_cache(maxsize=1)
def _style() -> str:
    return _text("page.css")


@lru_cache(maxsize=1)
def _script() -> str:
    body = "\n".join(_text(name) for name in _SCRIPTS)
    return f'"use strict";\n(() => {{\n{body}\n}})();\n'


def _text(name: str) -> str:
    return resources.files(__package__).joinpath("static", name).read_text("utf-8")
