"""onnxruntime as it is imported here."""

import os
import subprocess
import sys
from pathlib import Path

# Where any of these is set, onnxruntime tells nobody anything by itself.
_SILENCING = ("ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "GITHUB_ACTIONS")


def test_onnxruntime_keeps_nothing_to_tell_its_maker(tmp_path: Path) -> None:
    environment = {name: text for name, text in os.environ.items() if name not in _SILENCING}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", "import tabserve.runtime"], check=True, env=environment)
    assert list(tmp_path.iterdir()) == []
