"""What processes hold of memory, as Linux counts it."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Memory:
    """MiB of one process. rss: what processes share counts in each; pss: in equal parts; held: of
    that without the pages of files, which others on the machine may share too.
    """

    rss: float
    pss: float
    held: float


def memory(pid: int) -> Memory:
    """Nothing, of one that has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    except OSError:
        return Memory(0.0, 0.0, 0.0)
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return Memory(kib["Rss"] / 1024, kib["Pss"] / 1024, (kib["Pss"] - kib["Pss_File"]) / 1024)


def most_resident_mib(pid: int) -> float:
    """Since it began."""
    status = Path(f"/proc/{pid}/status").read_text()
    (kib,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:"))
    return int(kib) / 1024


def tree(pid: int) -> list[int]:
    """The process, and below it those that it started; none that has ended."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(below for child in children for below in tree(int(child)))]
