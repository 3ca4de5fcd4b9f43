"""wrk, which takes far less of the machine than a server does (Debian: apt-get install wrk)."""

import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MS = {"us": 1e-3, "ms": 1.0, "s": 1e3}


@dataclass(frozen=True)
class Answers:
    requests_per_s: float
    median_ms: float


def is_installed() -> bool:
    return shutil.which("wrk") is not None


def script(path: Path, rows: list[dict[str, Any]], key: str = "") -> Path:
    """One body after the other: an answer kept from the last time would be no answer.

    key: of the API, sent with each.
    """
    bodies = ",\n".join(f"[[{json.dumps(row)}]]" for row in rows[:200])
    path.write_text(
        'wrk.method = "POST"\nwrk.headers["Content-Type"] = "application/json"\n'
        f'wrk.headers["X-API-Key"] = "{key}"\n'
        f"local bodies = {{{bodies}}}\nlocal i = 0\n"
        "request = function()\n  i = i % #bodies + 1\n"
        "  return wrk.format(nil, nil, nil, bodies[i])\nend\n"
    )
    return path


def predict(url: str, script: Path, connections: int, seconds: float) -> Answers:
    """Raises SystemExit where the server refuses."""
    words = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}", "--latency"]
    done = subprocess.run(
        [*words, "-s", str(script), f"{url}/predict"], capture_output=True, text=True, check=True
    )
    if "Non-2xx" in done.stdout:
        raise SystemExit(f"{url} refused requests:\n{done.stdout}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    median = re.search(r"50%\s+([\d.]+)(us|ms|s)", done.stdout)
    assert rate is not None and median is not None, done.stdout
    return Answers(float(rate[1]), float(median[1]) * _MS[median[2]])
