import pytest

from tabserve.bench import Plan
from tabserve.errors import BenchError


def test_the_path_follows_from_the_batch() -> None:
    one = Plan(url="http://127.0.0.1:1/models/churn/")
    many = Plan(url="http://127.0.0.1:1", batch=50)
    assert one.url + one.predict_path == "http://127.0.0.1:1/models/churn/predict"
    assert many.url + many.predict_path == "http://127.0.0.1:1/predict/batch"
    assert (one.rows_per_request, many.rows_per_request) == (1, 50)


def test_the_key_is_in_no_repr() -> None:
    plan = Plan(url="http://h", key="s3cret")
    assert "s3cret" not in repr(plan)
    assert plan.without_key() == Plan(url="http://h")


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://h", "http://", "http://h:port", "http://[::1"]
)
def test_an_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(BenchError, match="Expected a URL such as http"):
        Plan(url=url)


@pytest.mark.parametrize("url", ["http://user:s3cret@h", "http://h?key=s3cret", "http://h#s3cret"])
def test_an_url_that_may_hold_a_secret_is_refused_and_not_repeated(url: str) -> None:
    with pytest.raises(BenchError) as refused:
        Plan(url=url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    "wrong", [{"connections": 0}, {"rate": 0.0}, {"duration_s": -1.0}, {"batch": 0}]
)
def test_a_figure_that_is_not_above_zero_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BenchError, match="above 0, got"):
        Plan(url="http://h", **wrong)  # type: ignore[arg-type]


def test_a_key_with_a_line_break_is_refused_and_not_repeated() -> None:
    with pytest.raises(BenchError) as refused:
        Plan(url="http://h", key="s3cret\n")
    assert "s3cret" not in str(refused.value)
