"""Folders that go with their process: at the end of `with`, at once, and not by a forked one."""

import subprocess
import sys
from pathlib import Path

import pytest

FIRST = """
import contextlib, os, sys
from tabserve import temporary
with temporary.folder() as folder:
    (folder / "file").touch()
    print(folder, flush=True)
"""


@pytest.mark.parametrize(
    ("rest", "exit_code", "is_left"),
    [
        ("", 0, False),
        ("    raise SystemExit(3)", 3, False),
        ("    temporary.end(4)", 4, False),
        ("    pid = os.fork()\n    if not pid: temporary.end(5)\n"
         "    os.waitpid(pid, 0)\n    print(folder.exists())", 0, False),
        ("    pid = os.fork()\n    if not pid: sys.exit(5)\n"
         "    os.waitpid(pid, 0)\n    print(folder.exists())", 0, False),
        ("    os._exit(6)", 6, True),
        ("    os._exit = lambda exit_code: sys.stdin.read()\n    temporary.end(8)", 8, False),
        ("    import shutil\n    remove = shutil.rmtree\n    def is_interrupted(*args, **kwargs):\n"
         "        shutil.rmtree = remove\n        temporary.end(7)\n"
         "    shutil.rmtree = is_interrupted", 7, False),
        # What a forked process makes in it meanwhile would keep it.
        ("    import shutil\n    remove = shutil.rmtree\n    def beside_another(*args, **kwargs):\n"
         "        with contextlib.suppress(FileNotFoundError):\n"
         "            (folder / 'late').touch()\n            os._exit(9)\n"
         "        remove(*args, **kwargs)\n    shutil.rmtree = beside_another", 0, False),
    ],
)  # fmt: skip
def test_a_folder_goes_with_the_process_that_made_it(
    rest: str, exit_code: int, is_left: bool, tmp_path: Path
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", FIRST + rest],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
        env={"TMPDIR": str(tmp_path)}, check=False,
    )  # fmt: skip
    folder, *there = ended.stdout.split()
    assert ended.returncode == exit_code
    assert Path(folder).parent == tmp_path
    assert Path(folder).exists() == is_left
    assert there in ([], ["True"])  # a forked process leaves it to its parent
    assert ("waitpid" in rest) == bool(there)
