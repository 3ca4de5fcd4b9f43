"""Names of parametrised tests."""

import re


def stable(value: object) -> str:
    """Its repr without the addresses of functions: each process must find the same names."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))
