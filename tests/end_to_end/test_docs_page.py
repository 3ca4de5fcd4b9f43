"""The pages of documentation as a browser shows them, from a server that runs."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.end_to_end.conftest import PATIENCE_S, Server

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not on PATH"),
]


@pytest.fixture(scope="module")
def server(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    request = ["--request", "examples.churn.request:ChurnRequest"]
    started = Server(tmp_path_factory.mktemp("docs"), str(repository), *request)
    try:
        yield started.wait_until_ready()
    finally:
        started.kill()


def rendered(url: str, profile: Path) -> str:
    """The document after its scripts have run. No other host can be reached."""
    assert CHROMIUM is not None
    done = subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            "--virtual-time-budget=10000", f"--user-data-dir={profile}", "--dump-dom", url,
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=PATIENCE_S,
        check=True,
    )  # fmt: skip
    return done.stdout.decode()


@pytest.mark.parametrize(
    ("page", "seen"),
    [
        ("/docs", ["opblock-summary-path", "Predict one record"]),
        ("/redoc", ["Predict one record", "tenure_months", "Months since the contract began."]),
    ],
)
def test_a_page_shows_the_models_own_operations_and_fields(
    server: Server, tmp_path: Path, page: str, seen: list[str]
) -> None:
    document = rendered(server.url + page, tmp_path / "profile")

    for text in [*seen, "/predict/batch", "/metadata", "churn"]:
        # Swagger UI lets a path break after each slash.
        assert text in document.replace("<wbr>", "").replace("&ZeroWidthSpace;", "").replace(
            "\u200b", ""
        )
    assert {line["status"] for line in server.log_lines()} == {200}


def test_swagger_shows_the_fields_of_an_opened_operation(server: Server, tmp_path: Path) -> None:
    document = rendered(f"{server.url}/docs#/prediction/post_predict", tmp_path / "profile")

    for text in ("tenure_months", "Month-to-month", "churn_probability"):
        assert text in document
