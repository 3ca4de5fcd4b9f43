"""How many CPUs this process may use."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus(cgroup: Path = _CGROUP) -> int:
    """By affinity, and by the limit of the control group (v2) that a container has."""
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux
    cpus = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    try:
        quota, period = cgroup.read_text().split()
        return cpus if quota == "max" else min(cpus, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):  # there is none
        return cpus
