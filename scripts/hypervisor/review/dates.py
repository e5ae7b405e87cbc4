"""Dates as records write them, and the day, week or month that each belongs to. Pure.

The zone rule: an instant belongs to the day that it has in the zone that is asked for, whatever zone it
is written in; with `OWN` to the day as it is written. A time without a zone is one in that zone (in UTC
under `OWN`), a date without a time is that very day.
"""

from __future__ import annotations

import email.utils
import math
import re
from datetime import UTC, date, datetime, time, tzinfo
from typing import Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ..core.errors import UsageError

#: Not a zone: the day as it is written.
OWN = "own"
Span = Literal["day", "week", "month"]

_NUMBER = re.compile(r"[+-]?\d{1,20}(?:\.\d{1,20})?$")
_MONTH = re.compile(r"(\d{4})-(\d{2})$")
#: 20251103 and 20251103120000 are dates, and no figures.
_COMPACT = re.compile(r"((?:19|20)\d{6})(\d{6})?$")
#: A web server's log: 03/Nov/2025:12:00:01 +0100
_LOG = re.compile(r"\[?(\d{1,2})/([A-Za-z]{3})/(\d{4}):(\d\d):(\d\d):(\d\d)(?: ([+-]\d{4}))?\]?$")
#: Of figures above these a unit below the second is meant: milli-, micro-, nanoseconds since 1970.
_UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3))


def zone_named(name: str) -> tzinfo | None:
    """Return the zone with this IANA name; None for `OWN`.

    Raises:
        UsageError: There is none.
    """
    if name == OWN:
        return None
    if name.upper() == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(
            f"--zone {name}: no such time zone here; name one like Europe/Vienna, UTC, or {OWN}"
        ) from None


def moment_of(value: object, zone: tzinfo | None) -> datetime | None:
    """Return when *value* is, in the zone that decides on its day; None for what is no date.

    Args:
        value: ISO 8601, RFC 2822, a log's time, a figure since 1970; or a date that a YAML file held.
        zone: From `zone_named`.
    """
    found = _read(value, zone or UTC)
    try:
        found = found and found.astimezone(UTC) and (found.astimezone(zone) if zone else found)
    except (OverflowError, ValueError):  # the first or last day that there is
        return None
    return found


def label_of(moment: datetime, span: Span) -> str:
    """Return the name of the day, ISO week or month of *moment*: it sorts as they follow each other."""
    if span == "day":
        return f"{moment.year:04d}-{moment.month:02d}-{moment.day:02d}"
    if span == "week":
        year, week, _ = moment.isocalendar()
        return f"{year:04d}-W{week:02d}"
    return f"{moment.year:04d}-{moment.month:02d}"


def _read(value: object, zone: tzinfo) -> datetime | None:
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, datetime):
        return _aware(value, zone)
    if isinstance(value, date):
        return datetime.combine(value, time(), zone)
    if isinstance(value, int | float):
        return _since_1970(value)
    if not isinstance(value, str):
        return None
    text = value.strip()
    if match := _COMPACT.match(text):
        return _iso("T".join(part for part in match.groups() if part), zone)
    if _NUMBER.match(text):
        return _since_1970(float(text))
    if match := _MONTH.match(text):
        text = f"{match[1]}-{match[2]}-01"
    if match := _LOG.match(text):
        text = "{} {} {} {}:{}:{} {}".format(*match.groups(""))  # as a mail would say it
    return _iso(text, zone) or _rfc2822(text, zone)


def _since_1970(number: float) -> datetime | None:
    seconds = next((number / unit for least, unit in _UNITS if abs(number) >= least), number)
    try:
        return datetime.fromtimestamp(seconds, UTC) if math.isfinite(seconds) else None
    except (OverflowError, ValueError, OSError):
        return None


def _iso(text: str, zone: tzinfo) -> datetime | None:
    try:
        return _aware(datetime.fromisoformat(text), zone)
    except ValueError:
        return None


def _rfc2822(text: str, zone: tzinfo) -> datetime | None:
    parsed = email.utils.parsedate_tz(text)
    if parsed is None:
        return None
    try:
        found = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    # "-0000" is a time in UTC (RFC 5322, section 3.3); no zone at all is one in ours.
    said_none = not re.search(r"[+-]\d{4}|\b[A-Z]{1,5}T?\b(?=\s*(?:\(|$))", text.strip())
    return found.replace(tzinfo=zone if said_none else UTC) if found.tzinfo is None else found


def _aware(moment: datetime, zone: tzinfo) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=zone)
