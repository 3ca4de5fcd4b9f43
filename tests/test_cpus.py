"""CPUs that this process may use."""

import os
from pathlib import Path

import pytest

from tabserve.cpus import usable_cpus


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is Linux's")
@pytest.mark.parametrize(
    ("limit", "expected"),
    [("max 100000", 4), ("150000 100000", 2), ("50000 100000", 1), ("900000 100000", 4), ("", 4)],
)
def test_the_smaller_of_affinity_and_container_counts(
    limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 5})
    file = tmp_path / "cpu.max"
    file.write_text(limit)
    assert usable_cpus(file) == expected


def test_without_a_control_group_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(tmp_path / "none") >= 1
