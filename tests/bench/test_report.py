import json
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from tabserve.bench import Plan, Report, save_html, save_json, show
from tabserve.bench.report import Interval, summarise
from tabserve.bench.tally import Answer, Tally
from tabserve.errors import BenchError, MissingExtra

KEY = "s3cret-key"
PLAN = Plan(url="http://127.0.0.1:8000/<b>&", key=KEY, connections=2, duration_s=2.0, batch=10)
ANSWER = Answer(None, 200, b'{"predictions":[{"model_version":"<1.2>"}],"count":1}')


def report_of(tally: Tally, plan: Plan = PLAN, **changed: Any) -> Report:
    measured: dict[str, Any] = {
        "started_at": "2026-01-01T00:00:00+00:00",
        "sending_s": plan.duration_s,
        "cpu_s": 0.1,
        "n_unsent": 0,
        "interrupted": False,
    }
    return summarise(plan, tally, **measured | changed)


def report_of_a_hundred_answers() -> Report:
    """1 to 100 ms, one every 20 ms, and three failures."""
    tally = Tally(begins=50.0)
    for n in range(1, 101):
        finished = 50 + n / 50 - 0.01
        tally.add(ANSWER, start=finished - n / 1000, finished=finished)
    for label in ("429 rate_limited", "timeout", "429 rate_limited"):
        tally.add(Answer(label, None, b""), start=50, finished=51)
    return report_of(tally)


def report_without_success() -> Report:
    tally = Tally(begins=0.0)
    tally.add(Answer("503 overloaded", 503, b"{}"), start=0, finished=1)
    return report_of(tally)


def printed(report: Report, **options: Any) -> str:
    text = StringIO()
    show(report, Console(file=text, width=100, **options))
    return text.getvalue()


def test_failures_are_counted_apart_from_the_answers() -> None:
    report = report_of_a_hundred_answers()
    assert (report.requests, report.succeeded) == (103, 100)
    assert report.errors == {"429 rate_limited": 2, "timeout": 1}
    assert (report.requests_per_s, report.rows_per_s) == (50.0, 500.0)


def test_percentiles_are_latencies_that_were_measured() -> None:
    latency = report_of_a_hundred_answers().latency_ms
    assert latency is not None
    found = [
        latency.min,
        latency.p50,
        latency.p90,
        latency.p95,
        latency.p99,
        latency.p99_9,
        latency.max,
    ]
    np.testing.assert_allclose(found, [1, 50, 90, 95, 99, 100, 100])
    np.testing.assert_allclose(latency.mean, 50.5)


@pytest.mark.parametrize("latencies_s", [[0.001], [0.002] * 7, [0.0001, 30.0], [0.003, 0.003001]])
def test_every_answer_is_in_the_histogram(latencies_s: list[float]) -> None:
    tally = Tally(begins=0.0)
    for latency_s in latencies_s:
        tally.add(ANSWER, start=1.0, finished=1.0 + latency_s)
    histogram = report_of(tally).histogram
    assert histogram is not None
    assert sum(histogram.counts) == len(latencies_s)
    assert len(histogram.edges_ms) == len(histogram.counts) + 1
    assert np.all(np.diff(histogram.edges_ms) > 0)


def test_each_second_has_its_own_figures() -> None:
    first, second = report_of_a_hundred_answers().intervals
    np.testing.assert_allclose([first.p50_ms or 0, first.p99_ms or 0], [25, 50])
    np.testing.assert_allclose([second.p50_ms or 0, second.p99_ms or 0], [75, 100])
    assert [(i.start_s, i.requests_per_s) for i in (first, second)] == [(0.0, 50.0), (1.0, 50.0)]


def test_a_second_without_answers_has_no_percentiles() -> None:
    assert report_without_success().intervals == [
        Interval(start_s, 0.0, None, None) for start_s in (0.0, 1.0)
    ]


@pytest.mark.parametrize(
    ("body", "version"),
    [
        (b'{"model_version":"1.0"}', "1.0"),
        (b'{"predictions":[{"model_version":"2.0"}]}', "2.0"),
        (b'{"predictions":[]}', None),
        (b"[1]", None),
        (b"7", None),
        (b"no json", None),
    ],
)
def test_the_model_version_is_that_of_the_first_answer(body: bytes, version: str | None) -> None:
    tally = Tally(begins=0.0)
    tally.add(Answer(None, 200, body), start=0, finished=0.1)
    tally.add(Answer(None, 200, b'{"model_version":"later"}'), start=0, finished=0.2)
    assert report_of(tally).model_version == version


def test_a_report_without_success_has_no_latency_and_says_so() -> None:
    report = report_without_success()
    assert (report.latency_ms, report.histogram, report.percentile_curve) == (None, None, None)
    assert "No request succeeded, so there are no latencies." in printed(report)
    assert "503 overloaded  1 (100.0%)" in printed(report)


def test_unsent_requests_and_a_busy_load_generator_are_remarked() -> None:
    tally = Tally(begins=0.0)
    tally.add(ANSWER, start=0, finished=0.1)
    text = " ".join(printed(report_of(tally, n_unsent=7, cpu_s=1.96)).split())
    assert "7 requests were due and never sent" in text
    assert "used 98% of a core" in text


def test_the_json_file_holds_the_report_and_not_the_key(tmp_path: Path) -> None:
    save_json(report_of_a_hundred_answers(), tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    document = json.loads(text)
    assert KEY not in text
    assert document["plan"] == {
        "url": "http://127.0.0.1:8000/<b>&",
        "data": None,
        "connections": 2,
        "rate": None,
        "duration_s": 2.0,
        "batch": 10,
    }
    assert document["errors"] == {"429 rate_limited": 2, "timeout": 1}
    assert document["latency_ms"]["p99_9"] == pytest.approx(100)


def test_a_plan_with_a_file_can_be_saved(tmp_path: Path) -> None:
    plan = Plan(url="http://h", data=Path("rows.csv"))
    save_json(report_of(Tally(begins=0.0), plan), tmp_path / "r.json")
    assert json.loads((tmp_path / "r.json").read_text())["plan"]["data"] == "rows.csv"


def test_the_page_refers_to_nothing_outside_of_it(tmp_path: Path) -> None:
    save_html(report_of_a_hundred_answers(), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") == 4
    for outside in ('src="', 'href="http', 'href="//', "url(http", "@import", "<script", "<link"):
        assert outside not in page


def test_the_page_escapes_what_it_shows_and_holds_no_key(tmp_path: Path) -> None:
    save_html(report_of_a_hundred_answers(), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert KEY not in page
    assert "http://127.0.0.1:8000/&lt;b&gt;&amp;" in page
    assert "&lt;1.2&gt;" in page
    assert "<b>" not in page


def test_no_id_stands_twice_in_the_page(tmp_path: Path) -> None:
    save_html(report_of_a_hundred_answers(), tmp_path / "r.html")
    ids = [part.split('"')[0] for part in (tmp_path / "r.html").read_text().split(' id="')[1:]]
    assert len(ids) == len(set(ids))


def test_the_page_of_a_report_without_success_has_the_one_plot_it_can_have(tmp_path: Path) -> None:
    save_html(report_without_success(), tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert page.count("<svg") == 1
    assert "No request succeeded" in page


def test_plain_text_has_the_figures_without_control_codes() -> None:
    text = printed(report_of_a_hundred_answers())
    assert "\x1b" not in text
    assert KEY not in text
    for figure in ("requests/s  50.0", "p99.9  100 ms", "429 rate_limited  2 (1.9%)", "<1.2>"):
        assert figure in text


def test_the_longest_bar_belongs_to_the_fullest_bin() -> None:
    report = report_of_a_hundred_answers()
    assert report.histogram is not None
    bars = [line.count("█") for line in printed(report).splitlines() if " to " in line]
    assert bars.index(max(bars)) == int(np.argmax(report.histogram.counts))


def test_a_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="No such file"):
        save_json(report_without_success(), tmp_path / "missing" / "r.json")


def test_a_page_without_matplotlib_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "tabserve.bench.plots", raising=False)
    with pytest.raises(MissingExtra, match=r"tabserve\[bench\]"):
        save_html(report_without_success(), tmp_path / "r.html")
