"""500 clients that send a byte now and then: `python -m benchmarks.slow_clients`.

Prints the latency of others, with them and without them, in turns. They are in a process of their
own, which others' client would else be waiting for.
"""

import argparse
import statistics
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from sklearn.tree import DecisionTreeRegressor

import tabserve
from benchmarks import servers
from benchmarks.slow_senders import slow_senders
from benchmarks.tables import show
from benchmarks.traffic import Answer, Client, run

RATE = 200.0


@dataclass(frozen=True)
class Figures:
    """p99_s: of others, in each round without and with the slow ones. statuses: of all of others'
    requests. told: the slow ones, by status; 0 without a word.
    """

    p99_s: list[tuple[float, float]]
    statuses: Counter[int | None]
    told: Counter[int]

    @property
    def ratio(self) -> float:
        return statistics.median(slow / normal for normal, slow in self.p99_s)


async def measured(
    url: str, record: Any, *, n_clients: int, n_rounds: int, round_s: float
) -> Figures:
    client, statuses, told = Client(url), Counter[int | None](), Counter[int]()

    async def p99_s() -> float:
        answers = await client.steadily("/predict", record, RATE, round_s)
        statuses.update(answer.status for answer in answers)
        return _p99_s(answers)

    await p99_s()  # it has learnt nothing yet
    rounds = []
    for _ in range(n_rounds):
        normal = await p99_s()
        async with slow_senders(url, n_clients) as told_now:
            rounds.append((normal, await p99_s()))
        told += told_now
    await client.close()
    return Figures(rounds, statuses, told)


def _p99_s(answers: list[Answer]) -> float:
    return sorted(answer.s for answer in answers)[int(0.99 * len(answers))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each round")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = pd.DataFrame({"x": [0.5, 1.5, 2.5]})
        model = DecisionTreeRegressor().fit(rows, rows["x"])
        path = tabserve.pack(model, Path(folder), name="tree", version="1", data=rows)
        port = servers.free_port()
        with servers.started(servers.tabserve(str(path), "--log", "off"), port) as process:
            url = f"http://127.0.0.1:{port}"
            servers.wait(f"{url}/ready", process)
            found = run(
                measured(
                    url, {"x": 1.5}, n_clients=arguments.clients, n_rounds=arguments.rounds,
                    round_s=arguments.seconds,
                )
            )  # fmt: skip
    shown = [
        (f"round {i}", f"{1000 * normal:.2f}", f"{1000 * slow:.2f}", f"{slow / normal:.2f}")
        for i, (normal, slow) in enumerate(found.p99_s, 1)
    ]
    shown.append(("median", "", "", f"{found.ratio:.2f}"))
    show(["p99 of others, ms", "alone", f"with {arguments.clients} slow ones", "ratio"], shown)
    print("Slow clients were told:", dict(found.told), "- others:", dict(found.statuses))


if __name__ == "__main__":
    main()
