import errno
import gzip
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.pipeline import Pipeline

import tabserve
from tabserve.errors import ScoreError
from tabserve.scoring.writing import Parts
from tests.scoring.conftest import FEATURES, read, records, write

FORMATS = ["csv", "ndjson", "parquet"]
ANSWER = ["churn_probability", "risk_category"]


@pytest.fixture(scope="module")
def undeclared(
    tmp_path_factory: pytest.TempPathFactory, pipeline: Pipeline, customers: pd.DataFrame
) -> Path:
    out = tmp_path_factory.mktemp("undeclared")
    tabserve.pack(pipeline, out, name="churn", version="1", data=customers, target="churn")
    return out


@pytest.mark.parametrize("suffix", FORMATS)
def test_a_row_gets_the_answer_that_the_api_gives(
    suffix: str, score: Any, ask: Any, customers: pd.DataFrame, tmp_path: Path
):
    some = customers[FEATURES][:130]
    out = tmp_path / f"out.{suffix}"
    report = score(write(some, tmp_path / f"in.{suffix}"), out)

    assert (report.n_scored, report.n_rejected) == (130, 0)
    answers = [ask(record) for record in records(some)]
    expected = [{"row": i, **{n: a[n] for n in ANSWER}} for i, a in enumerate(answers)]
    assert read(out) == expected
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"in.{suffix}", out.name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_numbers_are_those_of_the_fitted_pipeline_to_the_last_bit(
    suffix: str, score: Any, undeclared: Path, pipeline: Pipeline, customers: Any, tmp_path: Path
):
    some = customers[FEATURES]
    out = tmp_path / "out.parquet"
    score(write(some, tmp_path / f"in.{suffix}"), out, undeclared)

    found, expected = pq.read_table(out), pipeline.predict_proba(some)
    assert found["probability"].to_numpy().tolist() == expected[:, 1].tolist()
    assert found["probabilities.No"].to_numpy().tolist() == expected[:, 0].tolist()
    assert found["prediction"].to_pylist() == pipeline.predict(some).tolist()


def test_ndjson_nests_what_the_api_nests(
    score: Any, undeclared: Path, customers: Any, tmp_path: Path
):
    out = tmp_path / "out.ndjson"
    score(write(customers[FEATURES][:1], tmp_path / "in.csv"), out, undeclared)
    (line,) = read(out)
    assert list(line) == ["row", "prediction", "probability", "probabilities"]
    assert line["probability"] == line["probabilities"]["Yes"]


# By row, what is wrong with it, in what every format can say.
WRONG: dict[int, dict[str, Any]] = {
    3: {"contract_type": "Weekly"},
    64: {"tenure_months": 1.5},
    65: {"contract_type": None},
    100: {"tenure_months": 2.0**63, "contract_type": ""},
}


@pytest.mark.parametrize("suffix", ["ndjson", "parquet"])
def test_a_rejected_row_is_told_what_the_api_tells(
    suffix: str, score: Any, ask: Any, customers: pd.DataFrame, tmp_path: Path
):
    some = customers[FEATURES][:110].astype({"tenure_months": float})
    for row, wrong in WRONG.items():
        some.loc[row, list(wrong)] = list(wrong.values())
    out = tmp_path / "out.csv"
    report = score(write(some, tmp_path / f"in.{suffix}"), out)

    sent = records(some)
    expected = [
        {"row": row, "error": "invalid_input", "detail": ask(sent[row])["detail"]} for row in WRONG
    ]
    assert read(tmp_path / "out.csv.rejects.ndjson") == expected
    assert [line["row"] for line in read(out)] == sorted(set(range(110)) - WRONG.keys())
    assert (report.n_scored, report.n_rejected) == (106, 4)


# A line of CSV and of JSON that say the same, and are wrong in the same way.
WRONG_LINES = {
    '"x",65.5,786.0,Two year': '"x",65.5,786.0,"Two year"',
    "1.5,65.5,786.0,Two year": '1.5,65.5,786.0,"Two year"',
    "9223372036854775808,65.5,786.0,Two year": '9223372036854775808,65.5,786.0,"Two year"',
    "-9007199254740993,1,1,Two year": '-9007199254740993,1,1,"Two year"',
    "7,true,786.0,Two year": '7,"true",786.0,"Two year"',
    "7,1e400,786.0,Two year": '7,1e400,786.0,"Two year"',
    "7,65.5,9007199254740993,Two year": '7,65.5,9007199254740993,"Two year"',
    "7,65.5,786.0,Weekly": '7,65.5,786.0,"Weekly"',
    "7,65.5,786.0,": '7,65.5,786.0,""',
    "7,,786.0,Weekly": '7,null,786.0,"Weekly"',
    "x,y,z,1": '"x","y","z","1"',
}


@pytest.mark.parametrize("suffix", ["csv", "ndjson"])
def test_a_wrong_line_is_told_what_the_api_tells(suffix: str, score: Any, ask: Any, tmp_path: Path):
    names = [f'"{name}":' for name in FEATURES]
    as_json = [
        "{" + ",".join(map("".join, zip(names, cells.split(","), strict=True))) + "}"
        for cells in WRONG_LINES.values()
    ]
    lines = [",".join(FEATURES), *WRONG_LINES] if suffix == "csv" else as_json
    source = tmp_path / f"in.{suffix}"
    source.write_text("\n".join(lines))
    score(source, tmp_path / "out.csv")

    answers = [ask(line.encode()) for line in as_json]
    expected = [
        {"row": row, "error": answer["error"], "detail": answer["detail"]}
        for row, answer in enumerate(answers)
    ]
    assert read(tmp_path / "out.csv.rejects.ndjson") == expected


def test_cells_of_csv_are_what_the_signature_says(score: Any, tmp_path: Path, ask: Any):
    cells = [
        "007,65.5,,Month-to-month",
        "7.0,6.55e1,nan,Month-to-month",
        "7,abc,786.0,Month-to-month",
        "",
        "0x7,65.5,786.0,Month-to-month",
        "7,65.5,786.0",
        '7,65.5,786.0,"Two\nyear"',
        "7,65.5,9007199254740993,Two year",
        "7,1e400,786.0,Two year",
    ]
    source = tmp_path / "in.csv"
    source.write_text("\ufeff" + ",".join(FEATURES) + "\r\n" + "\r\n".join(cells))
    score(source, tmp_path / "out.ndjson", rejects=tmp_path / "bad")

    first, second = read(tmp_path / "out.ndjson")
    assert (first["row"], second["row"]) == (0, 1)
    assert first["churn_probability"] == second["churn_probability"]
    lines = [orjson.loads(line) for line in (tmp_path / "bad").read_bytes().splitlines()]
    found = {line["row"]: [(d["loc"][-1], d["type"]) for d in line["detail"]] for line in lines}
    assert found == {
        2: [("monthly_charges", "float_type")],
        3: [("tenure_months", "int_type")],
        4: [("body", "csv_row")],
        5: [("contract_type", "literal_error")],
        6: [("total_charges", "int_inexact")],
        7: [("monthly_charges", "finite_number")],
    }


def test_a_line_that_is_not_utf8_is_rejected_alone(score: Any, tmp_path: Path):
    good, wrong = b"7,65.5,786.0,Two year\n", b"7,65.5,786.0,Z\xfcrich\n"
    source = tmp_path / "in.csv"
    source.write_bytes(",".join(FEATURES).encode() + b"\n" + good + b"7,65.5\n" + wrong + good)
    score(source, tmp_path / "out.ndjson")
    assert [line["row"] for line in read(tmp_path / "out.ndjson")] == [0, 3]
    told = [(r["row"], r["detail"][0]["msg"]) for r in read(tmp_path / "out.ndjson.rejects.ndjson")]
    assert told == [
        (1, "Expected 4 cells, found 2 cells"),
        (2, "Expected UTF-8 text in contract_type"),
    ]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (gzip.compress(b"a,b\n"), "its header is not UTF-8 text. Save it as UTF-8, and unpack it"),
        ("a,b\n".encode("utf-16"), "its header is not UTF-8 text. Save it as UTF-8, and unpack it"),
        (b"a,b\r1,2\r", "its lines end in CR alone; save it with LF or CR LF at their ends"),
        (b"\n\n", "it has no header line"),
    ],
    ids=["gzip", "UTF-16", "CR", "empty"],
)
def test_what_is_no_csv_is_a_sentence(content: bytes, sentence: str, score: Any, tmp_path: Path):
    source = tmp_path / "in.csv"
    source.write_bytes(content)
    with pytest.raises(ScoreError, match=f"^Cannot read .*in.csv as csv: {sentence}"):
        score(source, tmp_path / "out.csv")


def test_empty_lines_before_the_header_are_none(score: Any, customers: Any, tmp_path: Path):
    source = write(customers[FEATURES][:3], tmp_path / "in.csv")
    source.write_bytes(b"\r\n\n" + source.read_bytes())
    assert score(source, tmp_path / "out.csv").n_scored == 3


@pytest.mark.parametrize(
    "cells", ["7,65.5,786.0,Two\ryear", '7,65.5,786.0,"Two year', '7,1,1,2" pipe\n7,1,1,1" pipe']
)
def test_quotes_that_hide_the_ends_of_rows_are_a_sentence(score: Any, tmp_path: Path, cells: str):
    source = tmp_path / "in.csv"
    source.write_text(f"{','.join(FEATURES)}\n7,65.5,786.0,Two year\n{cells}\n")
    with pytest.raises(ScoreError, match=r"from row 0 on .* never closed, or one or a CR"):
        score(source, tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_kept_columns_and_others_do_not_reach_the_model(
    score: Any, customers: pd.DataFrame, tmp_path: Path
):
    some = customers[:70].assign(id=[f"customer {i}" for i in range(70)])
    out = tmp_path / "out.parquet"
    score(write(some, tmp_path / "in.csv"), out, keep=("id",))
    assert pq.read_table(out)["id"].to_pylist() == some["id"].tolist()
    assert pq.read_schema(out).names == ["row", "id", *ANSWER]


def test_a_request_class_sees_each_row(score: Any, customers: pd.DataFrame, tmp_path: Path):
    some = customers[FEATURES][:70].assign(customer_id=[f"c{i}" for i in range(70)])
    some.loc[5, "total_charges"] = 1e6
    out = tmp_path / "out.ndjson"
    score(write(some, tmp_path / "in.parquet"), out, request="examples.churn.request:ChurnRequest")
    (rejected,) = read(tmp_path / "out.ndjson.rejects.ndjson")
    assert rejected["row"] == 5
    assert rejected["detail"][0]["msg"].startswith("Value error, total_charges is further")
    assert [line["customer_id"] for line in read(out)] == [f"c{i}" for i in range(70) if i != 5]


def test_what_cannot_be_begun_is_a_sentence(score: Any, customers: pd.DataFrame, tmp_path: Path):
    source, out = write(customers[FEATURES][:3], tmp_path / "in.csv"), tmp_path / "out.csv"
    narrow = write(customers[FEATURES[:2]], tmp_path / "narrow.csv")
    out.write_text("precious")
    bad = tmp_path / "bad.ndjson"
    bad.write_text("precious")
    folder = tmp_path / "folder.csv"
    folder.mkdir()
    for arguments, told, sentence in [
        ((source, out), {}, "exists already; say --replace"),
        ((source, tmp_path / "new.csv"), {"rejects": bad}, "bad.ndjson exists already; say"),
        ((source, source), {"replace": True}, "must be different files"),
        ((source, tmp_path / "new.csv"), {"rejects": source}, "must be different files"),
        ((source, folder), {"replace": True}, "folder.csv is a folder; name a file"),
        ((source, Path()), {}, "^. is a folder; name a file"),
        ((source, tmp_path / "out.xls"), {}, "Expected a file named *.csv"),
        ((tmp_path / "none.csv", tmp_path / "new.csv"), {}, "No such file"),
        ((narrow, tmp_path / "new.csv"), {}, "has no column total_charges, contract_type"),
        ((source, tmp_path / "new.csv"), {"keep": ("id",)}, "has no column id"),
    ]:
        with pytest.raises(ScoreError, match=sentence.replace("*", r"\*")):
            score(*arguments, **told)
    assert (out.read_text(), bad.read_text()) == ("precious", "precious")
    assert not (tmp_path / "new.csv").exists()


def test_parts_that_are_left_of_their_removal_are_no_run(
    score: Any, customers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, out = write(customers[FEATURES][:130], tmp_path / "in.csv"), tmp_path / "out.csv"

    def interrupted(folder: Path) -> None:
        (folder / "000001.rows").unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(ScoreError, match="Interrupted"):
        patched.setattr(shutil, "rmtree", interrupted)
        score(source, out)
    assert len(read(out)) == 130
    assert score(source, out, resume=True, replace=True).n_resumed == 0
    assert len(read(out)) == 130
    assert not (tmp_path / "out.csv.partial").exists()


# Holds the folder of a run until its standard input ends.
HOLDING = """
import fcntl, sys
with open(sys.argv[1], "wb") as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_run_that_another_process_does_is_not_resumed(
    score: Any, customers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, out = write(customers[FEATURES][:130], tmp_path / "in.csv"), tmp_path / "out.csv"
    with monkeypatch.context() as patched, pytest.raises(ScoreError, match="Interrupted"):
        patched.setattr(Parts, "finish", interrupted)
        score(source, out)
    lock = str(tmp_path / "out.csv.partial" / "lock")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDING, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for options in ({"resume": True}, {"resume": True, "chunk": 7}, {}):
            with pytest.raises(ScoreError, match="Another run writes"):
                score(source, out, **options)
        other.communicate(timeout=60)
    assert score(source, out, resume=True).n_resumed == 130
    assert len(read(out)) == 130


def interrupted(*_: Any) -> None:
    raise KeyboardInterrupt


def test_a_pipe_is_refused_and_not_waited_for(score: Any, tmp_path: Path):
    os.mkfifo(tmp_path / "in.csv")
    with pytest.raises(ScoreError, match="no ordinary file"):
        score(tmp_path / "in.csv", tmp_path / "out.csv")


def test_lines_of_spaces_are_rows(score: Any, customers: Any, ask: Any, tmp_path: Path):
    good = [orjson.dumps(row) for row in records(customers[FEATURES][:3])]
    lines = [good[0], b"  ", good[1], b"", good[2], b"\t"]
    source = tmp_path / "in.ndjson"
    source.write_bytes(b"\r\n".join(lines))
    score(source, tmp_path / "out.ndjson", chunk=2)
    assert [line["row"] for line in read(tmp_path / "out.ndjson")] == [0, 2, 3]
    rejects = read(tmp_path / "out.ndjson.rejects.ndjson")
    assert [(line["row"], line["error"]) for line in rejects] == [
        (1, ask(b"  ")["error"]),
        (4, ask(b"\t")["error"]),
    ]


@pytest.mark.parametrize("part", [".000001.rows", "out"])
def test_a_full_disk_is_a_sentence_and_loses_nothing(
    part: str, score: Any, customers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    source, out = write(customers[FEATURES][:130], tmp_path / "in.csv"), tmp_path / "out.csv"
    opened = Path.open

    def full(path: Path, *told: Any, **named: Any) -> Any:
        if path.name == part and told == ("wb",):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return opened(path, *told, **named)

    with monkeypatch.context() as patched, pytest.raises(ScoreError, match="No space left") as told:
        patched.setattr(Path, "open", full)  # of the processes that are forked, too
        score(source, out)
    assert str(told.value).endswith("go on with --resume once that is mended.")
    assert not out.exists()
    assert score(source, out, resume=True).n_scored == 130


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_rows_are_no_answers(suffix: str, score: Any, customers: Any, tmp_path: Path):
    source = write(customers[FEATURES][:0], tmp_path / f"in.{suffix}")
    out = tmp_path / "out.parquet"
    assert score(source, out).n_rows == 0
    assert pq.read_table(out).num_rows == 0


def test_text_of_polars_is_text(score: Any, customers: Any, tmp_path: Path):
    some = customers[FEATURES][:70]
    text = pa.array(some["contract_type"], pa.string_view())
    told = [{"of": [word]} for word in some["contract_type"]]
    within = pa.array(told, pa.struct({"of": pa.large_list(pa.string_view())}))
    table = pa.table(dict(some) | {"contract_type": text, "told": within})
    pq.write_table(table, tmp_path / "in.parquet")
    out = tmp_path / "out.parquet"
    assert score(tmp_path / "in.parquet", out, keep=("contract_type", "told")).n_scored == 70
    assert pq.read_table(out)["contract_type"].to_pylist() == some["contract_type"].tolist()
    assert pq.read_table(out)["told"].to_pylist() == told


@pytest.mark.slow
def test_a_native_model_is_scored_in_processes_that_load_it(
    score: Callable[..., Any], pipeline: Pipeline, customers: pd.DataFrame, tmp_path: Path
):
    tabserve.pack(
        pipeline, tmp_path / "m", name="churn", version="1", data=customers, target="churn",
        engine="native",
    )  # fmt: skip
    some = customers[FEATURES][:70]
    out = tmp_path / "out.parquet"
    score(write(some, tmp_path / "in.parquet"), out, tmp_path / "m")
    found = pq.read_table(out)["probability"].to_numpy()
    assert np.array_equal(found, pipeline.predict_proba(some)[:, 1])
