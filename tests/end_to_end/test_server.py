"""Servers as they run: uvicorn and gunicorn, one worker and several, from start to stop."""

import os
import re
import shutil
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import count
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from tabserve import auth
from tests.conftest import RECORD
from tests.end_to_end.conftest import PATIENCE_S, Server, poll
from tests.forging import forge_manifest

Serve = Callable[..., Server]


class Flavour(NamedTuple):
    framework: str
    workers: int

    @property
    def flags(self) -> list[str]:
        return ["--framework", self.framework, "--workers", str(self.workers)]


FLAVOURS = [Flavour(framework, workers) for workers in (1, 2) for framework in ("fastapi", "flask")]
_SLOW = [pytest.param(f, marks=pytest.mark.slow) for f in FLAVOURS]
# One of them starts in a few seconds; the others are for the whole run.
MOSTLY_SLOW = [FLAVOURS[0], *_SLOW[1:]]


def name_of(flavour: Flavour) -> str:
    return f"{flavour.framework}-{flavour.workers}"


all_flavours = pytest.mark.parametrize("flavour", _SLOW, ids=map(name_of, FLAVOURS))


# --- One server of each flavour, which the tests share: each has a key of its own.


@pytest.fixture(scope="module", params=MOSTLY_SLOW, ids=map(name_of, FLAVOURS))
def server(
    request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("server")
    (folder / "scraper").write_text(auth.add_key(folder / "keys.json", "scraper", "metrics"))
    flags = [*request.param.flags, "--keys", "keys.json", "--rate-limit", "5/minute"]
    started = Server(folder, str(repository), *flags)
    try:
        yield started.wait_until_ready(request.param.workers)
        # As Ctrl-C does, to the one that a terminal knows.
        assert started.stop(signal.SIGINT) == 0, started.output
        started.assert_nothing_is_left()
    finally:
        started.kill()


class Customer:
    """Somebody with a key."""

    numbers = count()

    def __init__(self, server: Server) -> None:
        self.name = f"customer-{next(self.numbers)}"
        self._server = server
        self._headers = {auth.HEADER: auth.add_key(server.folder / "keys.json", self.name)}

    def predict(self, **headers: str) -> httpx.Response:
        return self._server.post("/predict", RECORD, headers=self._headers | headers)

    def predict_batch(self, n_rows: int, **headers: str) -> httpx.Response:
        records = [RECORD] * n_rows
        return self._server.post("/predict/batch", records, headers=self._headers | headers)

    def predictions_total(self) -> float:
        return float(self._metrics(r'tabserve_predictions_total\{model="churn",version="1.2.3"\}'))

    def requests_total(self) -> float:
        sample = r'tabserve_request_duration_seconds_count\{route="/predict(?:/batch)?"\}'
        return float(self._metrics(sample))

    def _metrics(self, sample: str) -> float:
        headers = {auth.HEADER: (self._server.folder / "scraper").read_text()}
        text = self._server.get("/metrics", headers=headers).text
        return sum(map(float, re.findall(sample + r" (\S+)", text)))


@pytest.fixture
def customer(server: Server) -> Customer:
    return Customer(server)


def every_worker(server: Server) -> Iterator[None]:
    """For each worker in turn, a time in which only it can answer."""
    workers = server.workers()
    for worker in workers or [server.process.pid]:
        with server.alone(worker) if workers else server.alone(0):
            yield


def test_a_record_is_predicted_by_every_worker(server: Server, customer: Customer) -> None:
    answers = [customer.predict() for _ in every_worker(server)]

    assert [answer.status_code for answer in answers] == [200] * len(answers)
    assert {answer.json()["model_version"] for answer in answers} == {"1.2.3"}
    assert len({answer.json()["churn_probability"] for answer in answers}) == 1


def test_no_header_says_where_the_app_is_mounted(server: Server) -> None:
    """gunicorn believes a client of this machine, unless it is told not to."""
    for name in ("SCRIPT_NAME", "Script-Name", "X-Forwarded-Prefix"):
        assert server.get("/a/health", headers={name: "/a"}).status_code == 401


def test_a_batch_is_predicted_as_its_records_are(customer: Customer) -> None:
    one, batch = customer.predict().json(), customer.predict_batch(3).json()

    assert batch["count"] == 3
    assert [row["churn_probability"] for row in batch["predictions"]] == [
        one["churn_probability"]
    ] * 3


def test_no_key_is_401_and_a_wrong_one_403_in_every_worker(server: Server) -> None:
    wrong = {auth.HEADER: "ts_wrong"}
    answers = [
        (server.post("/predict", RECORD).status_code,
         server.post("/predict", RECORD, headers=wrong).status_code,
         server.get("/health").status_code)
        for _ in every_worker(server)
    ]  # fmt: skip

    assert set(answers) == {(401, 403, 200)}


def test_a_key_is_taken_and_once_revoked_refused_by_every_worker(
    server: Server, customer: Customer
) -> None:
    before = {customer.predict().status_code for _ in every_worker(server)}
    auth.revoke_key(server.folder / "keys.json", customer.name)

    def statuses() -> set[int]:
        return {customer.predict().status_code for _ in every_worker(server)}

    poll("the key is refused by every worker", lambda: statuses() == {403})
    assert before == {200}


def test_the_rate_limit_counts_over_all_workers(customer: Customer) -> None:
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: customer.predict(), range(20)))

    assert Counter(answer.status_code for answer in answers) == {200: 5, 429: 15}
    refused = [answer for answer in answers if answer.status_code == 429]
    assert all(1 <= int(answer.headers["Retry-After"]) <= 60 for answer in refused)


def test_the_rate_limit_holds_whichever_worker_is_asked(server: Server, customer: Customer) -> None:
    statuses = [customer.predict().status_code for _ in range(5)]
    later = [customer.predict().status_code for _ in every_worker(server)]

    assert (statuses, set(later)) == ([200] * 5, {429})


def test_metrics_sum_over_workers_and_any_worker_tells_them(
    server: Server, customer: Customer
) -> None:
    predictions, requests = customer.predictions_total(), customer.requests_total()

    for _ in every_worker(server):
        assert customer.predict().status_code == 200
        assert customer.predict_batch(10).status_code == 200

    n_workers = max(1, len(server.workers()))

    def all_tell_all() -> bool:
        told = [
            (customer.predictions_total() - predictions, customer.requests_total() - requests)
            for _ in every_worker(server)
        ]
        return told == [(11 * n_workers, 2 * n_workers)] * n_workers

    poll("all workers tell what all have counted", all_tell_all)


def test_the_log_has_one_line_for_each_prediction(server: Server, customer: Customer) -> None:
    ids = [f"{customer.name}-one", f"{customer.name}-three"]
    answers = [
        customer.predict(**{"X-Request-ID": ids[0]}).json(),
        *customer.predict_batch(3, **{"X-Request-ID": ids[1]}).json()["predictions"],
    ]

    def lines() -> list[dict[str, object]]:
        found = [line for line in server.log_lines() if line["request_id"] in ids]
        return found if len(found) >= 4 else []

    # Workers write one log, so only the lines of one request have an order.
    found = sorted(poll("four lines are in the log", lines), key=itemgetter("request_id"))
    assert [(line["event"], line["request_id"], line["prediction_id"]) for line in found] == [
        ("prediction", ids[0] if i == 0 else ids[1], answer["prediction_id"])
        for i, answer in enumerate(answers)
    ]
    assert {line["model_version"] for line in found} == {"1.2.3"}
    assert all(line["features"] == RECORD for line in found)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_ends_is_replaced_while_the_service_goes_on(
    server: Server, customer: Customer, number: int
) -> None:
    before, times_ready, predictions = server.workers(), server.times_ready, 0
    if len(before) < 2:
        pytest.skip("no other worker could go on")
    counted = customer.predictions_total()

    os.kill(before[0], number)

    def replaced() -> bool:
        nonlocal predictions
        answer = Customer(server).predict()
        assert answer.status_code == 200
        predictions += 1
        return server.times_ready > times_ready

    poll("another worker is ready", replaced)
    assert len(server.workers()) == 2
    assert len(set(server.workers()) & set(before)) == 1
    assert [customer.predict().status_code for _ in every_worker(server)] == [200] * 2
    poll(
        "all that was answered is counted",
        lambda: customer.predictions_total() - counted == predictions + 2,
    )


@pytest.mark.parametrize("framework", ["fastapi", "flask"])
def test_many_clients_that_send_half_a_request_keep_nobody_from_the_server(
    serve: Serve, repository: Path, framework: str
) -> None:
    server = serve(str(repository), "--framework", framework).wait_until_ready()
    port = int(server.url.rpartition(":")[2])
    with ExitStack() as stack:
        for _ in range(100):
            slow = stack.enter_context(socket.create_connection(("127.0.0.1", port)))
            slow.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")

        assert server.get("/health").status_code == 200
        assert server.post("/predict", RECORD).status_code == 200


# --- Starting and stopping.


@all_flavours
def test_a_stopped_server_answers_what_it_began_logs_it_and_ends_with_0(
    serve: Serve, repository: Path, flavour: Flavour
) -> None:
    server = serve(str(repository), *flavour.flags, "--deadline", "1")
    server.wait_until_ready(flavour.workers)
    assert len(list(server.run_folders.glob("tabserve-*"))) == (flavour.workers > 1)
    enough = threading.Semaphore(0)

    def ask_until_it_is_gone() -> int:
        answered = 0
        while True:
            try:
                status = server.post("/predict", RECORD).status_code
            except httpx.TransportError:
                return answered
            assert status in (200, 503)  # 503: the model is being shut down
            answered += status == 200
            enough.release()

    port = int(server.url.rpartition(":")[2])
    with ThreadPoolExecutor(4) as pool, socket.create_connection(("127.0.0.1", port)) as unfinished:
        # A client that never sends the rest keeps the server no longer than its deadline.
        unfinished.sendall(b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        clients = [pool.submit(ask_until_it_is_gone) for _ in range(4)]
        for _ in range(20):
            assert enough.acquire(timeout=PATIENCE_S)
        exit_code = server.stop()
        answered = sum(client.result() for client in clients)

    assert exit_code == 0, server.output
    server.assert_nothing_is_left()
    assert [line["event"] for line in server.log_lines()].count("prediction") == answered


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("later_s", [0, 0.02, 0.03, 0.05, 0.1])
def test_a_signal_while_the_model_loads_ends_the_server(
    serve: Serve, repository: Path, workers: int, later_s: float
) -> None:
    server = serve(str(repository), "--workers", str(workers))
    assert server.url
    time.sleep(later_s)  # in the midst of whatever it does then

    assert server.stop() == 0, server.output
    server.assert_nothing_is_left()


# --- Where its settings come from.

SERVICE = """
import tabserve
from examples.churn.request import ChurnRequest

settings = tabserve.Settings(path="models", max_rows=2, max_body=1000, deadline=7)
service = tabserve.Service(request=ChurnRequest, settings=settings)
"""


@pytest.mark.slow
@pytest.mark.parametrize("flavour", FLAVOURS[1:3], ids=name_of)
def test_settings_of_code_file_environment_and_flags_reach_every_worker(
    serve: Serve, own_repository: Path, tmp_path: Path, flavour: Flavour
) -> None:
    (tmp_path / "own_api.py").write_text(SERVICE)
    (tmp_path / "tabserve.toml").write_text(
        f'rate_limit = "4/hour"\nmax_rows = 9\nhide = ["monthly_charges"]\nworkers = 9\n'
        f'framework = "{flavour.framework}"\n'
    )
    env = {"TABSERVE_WORKERS": str(flavour.workers), "TABSERVE_MAX_ROWS": "8"}
    server = serve("own_api:service", "--max-rows", "3", env=env)
    server.wait_until_ready(flavour.workers)

    def status(body: object, **headers: str) -> int:
        return server.post("/predict/batch", body, headers=headers).status_code

    assert status([RECORD] * 3) == 200  # the flag
    assert status([RECORD] * 4) == 413
    assert status([RECORD] * 12) == 413  # the code's max_body
    wrong = server.post("/predict", RECORD | {"total_charges": 5}).json()
    assert "further than 50 %" in wrong["detail"][0]["msg"]
    # Under Flask the body that was too large counted too, and here it was refused before it came.
    assert server.post("/predict", {}).status_code in (422, 429)
    # The file's limit; and an address that the client made up is not another client.
    assert {status([RECORD], **{"X-Forwarded-For": "10.1.2.3"}) for _ in every_worker(server)} == {
        429
    }
    assert server.stop() == 0
    shown = [line["features"] for line in server.log_lines() if line["event"] == "prediction"]
    expected = {name: value for name, value in RECORD.items() if name != "monthly_charges"}
    assert shown == [expected] * 3


# --- Developing: --reload.

OWN_CLASS = """
from pydantic import BaseModel, Field

class Customer(BaseModel):
    tenure_months: int = Field(le={longest})
    monthly_charges: float
    total_charges: float | None
    contract_type: str
"""


def pack_again(version: Path, named: str) -> None:
    """As packing does it: beside its place, then renamed; the old one is removed just before."""
    unfinished = Path(shutil.copytree(version, version.parent / ".packing-again"))
    manifest = (unfinished / "manifest.json").read_text()
    text = re.sub(r'^  "version": "[^"]*"', f'  "version": "{named}"', manifest, flags=re.M)
    forge_manifest(unfinished, text.encode())
    shutil.rmtree(version)
    unfinished.replace(version)


def version_of(server: Server) -> str | None:
    try:
        return server.get("/ready").json().get("model_version")
    except httpx.TransportError:  # the process is being replaced
        return None


def status_of(server: Server) -> int | None:
    try:
        return server.post("/predict", RECORD).status_code
    except httpx.TransportError:
        return None


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["fastapi", "flask"])
def test_reload_sees_changes_of_the_users_code_and_settings(
    serve: Serve, own_repository: Path, tmp_path: Path, framework: str
) -> None:
    code = tmp_path / "own_code.py"
    code.write_text(OWN_CLASS.format(longest=100))
    flags = ["--framework", framework, "--reload", "--request", "own_code:Customer"]
    server = serve("models", *flags).wait_until_ready()
    assert status_of(server) == 200

    code.write_text("class Customer(")  # not yet finished
    poll("the mistake is shown", lambda: "SyntaxError" in server.output)
    code.write_text(OWN_CLASS.format(longest=1))
    poll("the new class refuses", lambda: status_of(server) == 422)
    (server.folder / "tabserve.toml").write_text("max_body = 3")
    poll("the new limit refuses", lambda: status_of(server) == 413)

    assert server.stop() == 0
    poll("all processes ended", lambda: not server.processes())


@pytest.mark.slow
def test_reload_sees_a_version_elsewhere_replaced_again_and_again(
    serve: Serve, repository: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = Path(shutil.copytree(repository, tmp_path_factory.mktemp("elsewhere") / "models"))
    version = elsewhere / "churn/1.2.3"
    server = serve(str(version), "--reload").wait_until_ready()

    for named in ("1.2.4", "1.2.5"):
        pack_again(version, named)
        poll("the replaced version answers", lambda n=named: version_of(server) == n)

    assert server.stop(signal.SIGINT) == 0
