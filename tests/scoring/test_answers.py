import math
import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tabserve.output import Bands, Output, Renderer, Target
from tabserve.scoring.answers import answer_columns, rounded

RANDOM = random.Random(7)
# Beside what chance gives: halves in decimals, exact halves, their neighbours, the ends.
HALVES = [k / 2 / 10**d for d in range(5) for k in range(-41, 42)]
HARD = [
    *HALVES,
    *(math.nextafter(x, 9) for x in HALVES),
    *(math.nextafter(x, -9) for x in HALVES),
    0.0, -0.0, 5e-324, 1.7976931348623157e308, 2.0**52 + 0.5, 2.675, 1e22, 123456789.0005,
]  # fmt: skip


@pytest.mark.parametrize("decimals", [0, 1, 2, 3, 6, 15])
def test_rounding_is_that_of_python(decimals: int):
    numbers = np.array([*HARD, *(RANDOM.uniform(-2, 2) for _ in range(20_000))])
    expected = [round(number, decimals) for number in numbers.tolist()]
    assert (
        rounded(numbers, decimals).view(np.int64).tolist()
        == np.array(expected).view(np.int64).tolist()
    )


def test_bands_are_those_of_the_renderer():
    bands = Bands.parse("risk: Low < 0.3 <= Medium < 0.7 <= High")
    numbers = np.array([0.0, 0.3, math.nextafter(0.3, 0), 0.7, math.nextafter(0.7, 0), 1.0])
    declared = Output(name="x", round=2, bands=bands)
    manifest: Any = SimpleNamespace(targets=(Target(kind="number"),), output=declared)
    columns = answer_columns(manifest, {"value": numbers})
    rendered = Renderer(manifest.targets, manifest.output).render({"value": numbers}, 6)
    found = zip(*(column.to_pylist() for column in columns.values()), strict=True)
    assert [dict(zip(["x", "risk"], row, strict=True)) for row in found] == rendered


def test_a_label_that_the_sample_did_not_show_is_answered():
    target = Target(kind="classes", classes=("none",))
    manifest: Any = SimpleNamespace(targets=(target,), output=None)
    labels = np.array(["none", "by hand", "none"], dtype=object)
    (column,) = answer_columns(manifest, {"label": labels}).values()
    assert column.to_pylist() == labels.tolist()
