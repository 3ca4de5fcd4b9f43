"""Ten times as many requests as the model can answer: `python -m benchmarks.overload`.

Prints how many are answered in time, how soon the others are told, what memory that takes, and how
the server is 5 s later. Times are those of the client, from before it sends to after it has read
the answer, so they hold what it was late itself; how late it was to send is told beside them.
"""

import argparse
import asyncio
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path

from benchmarks import slow_model
from benchmarks.memory import memory, most_resident_mib
from benchmarks.servers import free_port, started, tabserve, wait
from benchmarks.tables import figure, show
from benchmarks.traffic import Answer, Client, run

DEADLINE_S = 1.0
CAPACITY = 1 / slow_model.ROW_S
LATER_S = 5.0
FLAGS = ("--deadline", str(DEADLINE_S), "--log", "off", "--allow-code")


@dataclass(frozen=True)
class Figures:
    """peak, goodput: requests a second answered in time, at twice and at 10 times the capacity.

    told_s: of those that were refused as they came, the latest. past_deadline_s: of those that had
    waited for the model, the latest after their deadline; below 0 where all were told before it.
    retry_after: whether each was told when to try again. client_late_s: at most, to send.
    before_s, after_s: of one request at a time, the median. grown_mib: resident, at most.
    """

    peak: float
    goodput: float
    statuses: dict[int | None, int]
    told_p99_s: float
    told_s: float
    past_deadline_s: float
    client_late_s: float
    retry_after: bool
    before_s: float
    after_s: float
    is_ready: bool
    grown_mib: float


async def measured(url: str, pid: int, duration_s: float) -> Figures:
    """Of the server of the slow model at that address."""
    client = Client(url)
    before_s = await _one_at_a_time(client)
    peak = await client.steadily("/predict", slow_model.RECORD, 2 * CAPACITY, duration_s)
    await asyncio.sleep(DEADLINE_S)
    resident = memory(pid).rss
    over = await client.steadily("/predict", slow_model.RECORD, 10 * CAPACITY, duration_s)
    await asyncio.sleep(LATER_S)
    ready = await client.get("/ready")
    refused = [answer for answer in over if answer.status == 503]
    statuses = [answer.status for answer in over]
    told_s = sorted(answer.s for answer in refused if answer.s < DEADLINE_S / 2)
    late_s = [answer.s - DEADLINE_S for answer in refused if answer.s >= DEADLINE_S / 2]
    figures = Figures(
        peak=_goodput(peak),
        goodput=_goodput(over),
        statuses={status: statuses.count(status) for status in set(statuses)},
        told_p99_s=told_s[int(0.99 * len(told_s))],
        told_s=told_s[-1],
        past_deadline_s=max(late_s, default=0.0),
        client_late_s=_late_s(over, 10 * CAPACITY),
        retry_after=all("retry-after" in answer.headers for answer in refused),
        before_s=before_s,
        after_s=await _one_at_a_time(client),
        is_ready=ready.status == 200,
        grown_mib=most_resident_mib(pid) - resident,
    )
    await client.close()
    return figures


async def _one_at_a_time(client: Client) -> float:
    answers = [await client.post("/predict", slow_model.RECORD) for _ in range(30)]
    assert {answer.status for answer in answers} == {200}
    return statistics.median(answer.s for answer in answers)


def _goodput(answers: list[Answer]) -> float:
    """By the server's own clock, which says 504 or 503 to whom it answers too late."""
    n_answered = [answer.status for answer in answers].count(200)
    return n_answered / max(answer.sent_at + answer.s - answers[0].sent_at for answer in answers)


def _late_s(answers: list[Answer], rate: float) -> float:
    began = answers[0].sent_at
    return max(answer.sent_at - began - i / rate for i, answer in enumerate(answers))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = tabserve(str(slow_model.packed(Path(folder))), *FLAGS)
        with started(command, port) as process:
            url = f"http://127.0.0.1:{port}"
            wait(f"{url}/ready", process)
            found = run(measured(url, process.pid, arguments.seconds))
    rows = [
        ("answered in time, at twice the capacity", f"{figure(found.peak)}/s"),
        ("answered in time, at 10 times", f"{figure(found.goodput)}/s"),
        ("of the peak", f"{100 * found.goodput / found.peak:.0f} %"),
        ("refused as they came, 99 % within", f"{1000 * found.told_p99_s:.1f} ms"),
        ("refused as they came, at the latest", f"{1000 * found.told_s:.1f} ms"),
        ("others told 503 past the deadline, by at most", f"{1000 * found.past_deadline_s:.1f} ms"),
        ("the client was late to send, by at most", f"{1000 * found.client_late_s:.1f} ms"),
        ("answers by status", str(found.statuses)),
        ("memory grown by", f"{found.grown_mib:.1f} MiB"),
        ("one request, before", f"{1000 * found.before_s:.1f} ms"),
        (f"one request, {LATER_S:.0f} s after", f"{1000 * found.after_s:.1f} ms"),
    ]
    show(["a model of 10 ms, a deadline of 1 s", ""], rows)


if __name__ == "__main__":
    main()
