"""What a column of strings holds: texts, or numbers, dates, ids or labels."""

from __future__ import annotations

import re
from collections.abc import Sequence

MOST = 0.95  # the share of a column's values that decides
LABELS_FROM = 100  # values from which few distinct ones are labels
REPEATS = 20  # uses of each label, on average

_NAMES = (
    r"jan\w{0,6}|feb\w{0,6}|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?|"
    r"(?:mon|tue|wed|thu|fri|sat|sun)(?:\w{0,3}day)?|am|pm|utc|gmt|(?<=\d)[tz]"
)
_NUMBER = re.compile(
    r"(?!\d\d?\.\d\d?\.\d+$)[-+$€£]?\s?\d[\d.,'\s]*(?:e[-+]?\d+)?\s?[%$€£]?", re.IGNORECASE
)
_DATE = re.compile(
    rf"(?=.*\d)(?:(?:{_NAMES})(?![a-su-y])|\d{{1,8}}(?:st|nd|rd|th)?|[-/.:,+\s])+", re.IGNORECASE
)
_ID = re.compile(r"(?=.*\d)[\w.:/@#-]+", re.ASCII)


def contents(values: Sequence[str | None]) -> str:
    """`texts`, `numbers`, `dates`, `ids`, `labels` or `nothing`, of a sample of a column.

    An id is one word with a digit. Labels are few values, many times each.

    >>> contents(["How do I reset it?", "It is red"]), contents(["17", "1,200.5"])
    ('texts', 'numbers')
    >>> contents(["2026-11-24 10:03", "3 May 2026"]), contents(["T-1042", "T-1043"])
    ('dates', 'ids')
    """
    filled = [value.strip()[:100] for value in values if value and value.strip()]
    if not filled:
        return "nothing"
    for kind, pattern in (("numbers", _NUMBER), ("dates", _DATE), ("ids", _ID)):
        if sum(1 for value in filled if pattern.fullmatch(value)) >= MOST * len(filled):
            return kind
    few = len(filled) >= LABELS_FROM and len(set(filled)) <= len(filled) // REPEATS
    return "labels" if few else "texts"
