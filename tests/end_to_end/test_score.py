"""`tabserve score` as processes that are interrupted, killed, and go on."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pytest

from tests.conftest import NUMBERS
from tests.end_to_end.conftest import PATIENCE_S, environment, poll

# Of a user's class that, while the file `trap` is there, waits at one row, or ends its process.
REQUEST = """
import os, time
from pathlib import Path
from pydantic import model_validator
from examples.churn.request import ChurnRequest

class Trapped(ChurnRequest):
    @model_validator(mode="after")
    def trapped(self):
        trap = Path("trap")
        if self.customer_id == "c250" and trap.exists():
            if trap.read_text() == "die":
                os._exit(7)
            Path("waits").touch()
            while trap.exists():
                time.sleep(0.05)
        return self
"""
ARGUMENTS = ["score", "models", "in.csv", "out.ndjson", "--request", "trapped:Trapped"]
ARGUMENTS += ["--chunk", "100", "--processes", "2"]


@pytest.fixture
def folder(own_repository: Path, tmp_path: Path, customers: pd.DataFrame) -> Path:
    ids = [f"c{i}" for i in range(len(customers))]
    rows = customers[[*NUMBERS, "contract_type"]].assign(customer_id=ids)
    rows.to_csv(tmp_path / "in.csv", index=False)
    (tmp_path / "trapped.py").write_text(REQUEST)
    return tmp_path


@pytest.fixture
def start(folder: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "tabserve", *arguments], cwd=folder,
            env=environment(folder / "tmp", {}), stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def rows_of(out: Path) -> list[Any]:
    return [orjson.loads(line)["row"] for line in out.read_bytes().splitlines()]


def assert_resumes(folder: Path, start: Callable[..., Any]) -> None:
    assert not (folder / "out.ndjson").exists()
    (folder / "trap").unlink()
    process = start(*ARGUMENTS, "--resume")
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, told
    assert ", 200 of them by an earlier run" in told or ", 100 of them" in told
    assert rows_of(folder / "out.ndjson") == list(range(300))
    assert not (folder / "out.ndjson.partial").exists()


def test_a_process_that_ends_keeps_what_is_done(folder: Path, start: Callable[..., Any]) -> None:
    (folder / "trap").write_text("die")
    process = start(*ARGUMENTS)
    _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 2
    assert "Error: A process that scored ended (exit code 7). What is done is kept" in told
    again = start(*ARGUMENTS)
    assert "go on with --resume, or delete" in again.communicate(timeout=PATIENCE_S)[1]
    assert_resumes(folder, start)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_is_ended_goes_on(number: int, folder: Path, start: Callable[..., Any]) -> None:
    (folder / "trap").write_text("wait")
    process = start(*ARGUMENTS)
    poll("reaches the row", lambda: (folder / "waits").exists())
    poll("the first chunk is done", lambda: list(folder.glob("out.ndjson.partial/*.done")))
    process.send_signal(number)
    process.wait(PATIENCE_S)
    if number == signal.SIGINT:
        assert process.returncode == 2
        assert "rows, which are kept: go on with --resume." in process.communicate()[1]
    poll("all processes ended", lambda: not _alive(process.pid))
    assert_resumes(folder, start)


def _alive(session: int) -> bool:
    with suppress(ProcessLookupError):
        os.killpg(session, 0)
        return True
    return False


def test_exit_codes_say_whether_rows_were_rejected(folder: Path, tabserve: Any) -> None:
    rows = pd.read_csv(folder / "in.csv").drop(columns="customer_id")
    rows.loc[7, "contract_type"] = "Weekly"
    rows.to_csv(folder / "one.csv", index=False)
    rejecting = tabserve("score", "models", "one.csv", "one.parquet")
    assert rejecting.returncode == 1
    assert "Scored 299 rows into one.parquet" in rejecting.stderr
    assert "Rejected 1 row; one.parquet.rejects.ndjson says why." in rejecting.stderr
    rows[:0].to_csv(folder / "no.csv", index=False)
    empty = tabserve("score", "models", "no.csv", "no.parquet")
    assert empty.returncode == 0
    assert "Warning: there is no row in no.csv." in empty.stderr
    missing = tabserve("score", "models", "none.csv", "none.parquet")
    assert missing.returncode == 2
    assert missing.stderr.startswith("Error: Cannot read none.csv as csv: No such file")
