"""Nothing grows. `python -m benchmarks.soak` does the same for half an hour."""

from pathlib import Path

import pytest

from benchmarks.soak import kinds, median, soak

# In the first minutes what malloc and Python keep in reserve still grows a little. A version that
# stays in memory takes 3 MiB and a thread of each worker, and a dozen are replaced in a quarter.
RESERVE_MIB = 30


@pytest.mark.slow
def test_under_mixed_traffic_and_reloads_nothing_grows(tmp_path: Path) -> None:
    report = soak(tmp_path, seconds=60, workers=2, reload_every_s=1.0)

    quarter = len(report.samples) // 4
    before, after = report.samples[quarter : 2 * quarter], report.samples[-quarter:]
    assert median("held_mib", after) - median("held_mib", before) < RESERVE_MIB
    assert median("threads", after) - median("threads", before) < 4
    assert median("files", after) - median("files", before) < 4
    assert report.reloads > 10
    assert set(report.answers) == {(name, kind.status) for name, kind in kinds([{"x": 1}]).items()}
