"""The page holds one script and one document of data, and no text of strangers becomes either."""

from __future__ import annotations

import json
import re

from hostile import HOSTILE
from hypervisor.report.page import embedded, page, policy


def test_no_text_ends_the_element_that_holds_the_data() -> None:
    made = embedded({"texts": HOSTILE[:-1]})
    assert made.isascii()
    assert not set(made) & set("<>&")
    assert json.loads(made) == {"texts": HOSTILE[:-1]}


def test_the_page_holds_one_script_that_its_policy_names() -> None:
    report = {"batch": {"id": HOSTILE[0]}, "census": {"queued": 3}, "rows": [[0, *HOSTILE[:3]]]}
    document = page(report)
    assert document.count("<script") == document.count("</script>") == 2
    assert policy(live=False).replace("'", "&#x27;") in document
    assert "connect-src 'none'" in policy(live=False)
    assert not re.search(r"(?:src|href|action)=[\"']?(?:https?:)?//", document)
    assert not re.search(r"innerHTML|insertAdjacent|document\.write|eval\(|\.outerHTML", document)
