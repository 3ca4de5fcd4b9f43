"""What malloc keeps, in processes of their own: it is told once, and stays so."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from tabserve import heap

# How many heaps threads have that hold memory at once, beside that of all. Each lies in 64 MiB of
# addresses, of which the upper ones are not in use.
_HEAPS = """
import sys
import threading
from pathlib import Path
from tabserve import heap

if sys.argv[1] == "one":
    heap.keep_one()
together = threading.Barrier(5)

def hold():
    held = bytearray(100_000)
    together.wait()
    together.wait()

threads = [threading.Thread(target=hold) for _ in range(4)]
for thread in threads:
    thread.start()
together.wait()
mapped = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
unused = [place.partition("-")[2] for place, kind, *_ in mapped if kind == "---p"]
print(sum(int(end, 16) % 2**26 == 0 for end in unused))
together.wait()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc")
def test_all_threads_have_one_heap() -> None:
    def n_heaps(kept: str) -> int:
        return int(subprocess.check_output([sys.executable, "-c", _HEAPS, kept]))

    assert n_heaps("all") > 0
    assert n_heaps("one") == 0


def test_nothing_is_done_where_the_c_library_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "ctypes", SimpleNamespace(CDLL=lambda name: object()))
    heap.keep_one()
    heap.give_back()
