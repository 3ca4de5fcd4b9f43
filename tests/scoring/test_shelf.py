import multiprocessing

import numpy as np

from tabserve.scoring.making import Box
from tabserve.scoring.shelf import Shelf

BOX = Box(
    [
        (3, np.array([0, 1, 1], np.uint16), np.array([[0, 2], [1, 3]], np.uint16)),
        (1, np.array([0, 0, 0, 1], np.uint16), np.array([[0, 0], [4, 4]], np.uint16)),
    ],
    np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8]),
)


def same(found: Box | None, box: Box) -> bool:
    assert found is not None
    for (feature, rows, table), other in zip(found.offsets, box.offsets, strict=True):
        assert (feature, rows.tolist(), table.tolist()) == (
            other[0],
            *(x.tolist() for x in other[1:]),
        )
        assert table.dtype == other[2].dtype
    return found.weights.tolist() == box.weights.tolist()


def test_a_box_that_one_process_made_is_there_for_another():
    shelf = Shelf(5, 2**16)
    large = Box([], np.arange(1.0))

    def make() -> None:
        for number in shelf.claim(np.array([4, 2, 1]), 2).tolist():
            shelf.put(number, large if number == 2 else BOX)

    process = multiprocessing.get_context("fork").Process(target=make)
    process.start()
    process.join()
    assert same(shelf.get(4), BOX)
    assert same(shelf.get(2), large)
    assert shelf.get(1) is None
    assert shelf.claim(np.array([1, 2, 4]), 9).tolist() == [1]
    assert shelf.claim(np.array([1, 2, 4]), 9).tolist() == []


def test_what_has_no_room_is_left():
    shelf = Shelf(3, 300)
    for number in shelf.claim(np.arange(3), 3).tolist():
        shelf.put(number, BOX)
    assert same(shelf.get(0), BOX)
    assert shelf.get(1) is None
    assert shelf.claim(np.arange(3), 3).tolist() == []
