"""A rate limit is one for all workers of a server, with nothing installed, and outlives each."""

import os
import signal
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.conftest import RECORD
from tests.end_to_end.conftest import Server, poll


@pytest.mark.parametrize("framework", ["fastapi", pytest.param("flask", marks=pytest.mark.slow)])
def test_just_the_rate_is_admitted_by_four_workers_of_which_one_is_killed(
    serve: Callable[..., Server], repository: Path, framework: str
) -> None:
    flags = ["--workers", "4", "--rate-limit", "200/hour", "--framework", framework]
    server = serve(str(repository), *flags).wait_until_ready(4)

    def statuses(n_requests: int) -> Counter[int]:
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(server.post, "/predict", RECORD) for _ in range(n_requests)]
        return Counter(request.result().status_code for request in asked)

    assert statuses(120) == {200: 120}
    os.kill(server.workers()[0], signal.SIGKILL)
    poll("another worker is ready", lambda: server.times_ready == 5)

    assert statuses(120) == {200: 80, 429: 40}
    assert server.stop() == 0
