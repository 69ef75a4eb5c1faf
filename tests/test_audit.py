"""What the audit says of a report."""

import json

import pytest

from tests.audit import packages

WEAK = {"name": "a", "version": "1", "vulns": [{"id": "X-1"}]}
SOUND = {"name": "b", "version": "1", "vulns": []}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize(
    ("found", "code", "line"),
    [
        ([WEAK, SOUND], 1, "packages: 1 known weaknesses in 2; a X-1"),
        ([SOUND, UNKNOWN], 0, "packages: 0 known weaknesses in 1, 1 unknown to the service"),
        ([UNKNOWN], 0, "packages: not audited, as the service of pip-audit knows none of them"),
    ],
)
def test_a_report_becomes_one_line(found, code, line):
    assert packages(json.dumps({"dependencies": found})) == (code, line)


def test_a_service_that_is_not_reached_is_said():
    assert packages("")[1].endswith("cannot be reached")
