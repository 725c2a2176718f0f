"""docs/security.md: the tests it names exist, its defaults are in force, and no class of holes is left out."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import zcws

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
TESTS = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "tests").rglob("test_*.py")))

#: Each class of holes that other libraries had, by one of its advisories.
CLASSES = [
    *("CVE-2018-1000518", "CVE-2026-39804", "CVE-2026-1526", "CVE-2026-54278", "CVE-2025-69223"),
    *("CVE-2026-42786", "CVE-2014-0193", "CVE-2026-48779", "CVE-2026-12151", "CVE-2026-65623"),
    *("CVE-2020-27813", "CVE-2026-1528", "CVE-2026-54466", "CVE-2017-2921", "CVE-2020-13935"),
    *("CVE-2026-2229", "CVE-2026-59881", "GHSA-xcgm-r5h9-7989", "CVE-2026-69243", "CVE-2023-43669"),
    *("CVE-2024-37890", "CVE-2021-32640", "CVE-2020-7662", "CVE-2020-7663", "CVE-2026-45541"),
    *("CVE-2021-33880", "CVE-2020-35678", "CVE-2026-1527", "CVE-2016-10518", "CVE-2026-45736"),
    *("RUSTSEC-2020-0043", "GHSA-c4j6-fc7j-m34r", "socketify-197", "CVE-2017-2922", "CVE-2020-15133"),
    *("CVE-2020-11050", "CWE-1385"),
]


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(test_\w+)`", PAGE))))
def test_a_test_that_is_named_exists(name: str) -> None:
    assert re.search(rf"def {name}\(", TESTS)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(tests/[\w./]+)`", PAGE))))
def test_a_file_that_is_named_exists(name: str) -> None:
    assert (ROOT / name).exists()


@pytest.mark.parametrize("advisory", CLASSES)
def test_every_class_of_holes_has_its_test(advisory: str) -> None:
    body = TESTS.replace("CLASSES = [", "\0")  # this list is no test
    body = re.sub(r"\0.*?^\]", "", body, flags=re.DOTALL | re.MULTILINE)
    name = advisory.lower().replace("-", "_")
    assert re.search(rf"def test_{name}_", body) or f'"{advisory}"' in body


@pytest.mark.parametrize(
    ("option", "told"), re.findall(r"^\| `(\w+)` \| (\w+) \|", PAGE, re.MULTILINE), ids=lambda item: item
)
def test_a_default_is_what_the_page_says(option: str, told: str) -> None:
    found = [
        parameters[option].default
        for face in (zcws.connect, zcws.serve)
        if option in (parameters := inspect.signature(face).parameters)
    ]
    assert found and {str(value) for value in found} == {told}
