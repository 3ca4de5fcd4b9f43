"""Runs a load test: the connections, the clock and the end of it."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import aclosing
from datetime import UTC, datetime
from itertools import cycle
from typing import TYPE_CHECKING

from rich.console import Console

from tabserve.bench import openapi, rows
from tabserve.bench.pace import ClosedLoop, OpenLoop
from tabserve.bench.plan import Plan
from tabserve.bench.report import Report, summarise
from tabserve.bench.tally import Tally
from tabserve.bench.terminal import announce, show_progress

if TYPE_CHECKING:
    from tabserve.bench.client import Client

# How long answers in flight are waited for when the time is up; what is missing then is unfinished.
_PATIENCE_S = 5.0

_clock = time.perf_counter


def run(plan: Plan, console: Console) -> Report:
    """Carry out the plan and report what came back; Ctrl-C ends it early, with a report.

    console: gets a line of progress, renewed while the test runs if it is a terminal.
    Raises BenchError if the server or the records cannot be had, MissingExtra without aiohttp.
    """
    return asyncio.run(_run(plan, console))


async def _run(plan: Plan, console: Console) -> Report:
    from tabserve.bench.client import Client  # needs the extra

    async with aclosing(Client(plan)) as client:
        bodies = await _bodies(plan, client)
        await client.open_connections()
        announce(plan, console)
        return await _send_for_the_duration(plan, client, bodies, console)


async def _bodies(plan: Plan, client: "Client") -> list[bytes]:
    if plan.data is None:
        records = openapi.examples(await client.openapi())
    else:
        document = await client.openapi() if rows.is_csv(plan.data) else None
        records = rows.read(plan.data, document, plan.rows_per_request)
    return rows.bodies(records, plan.batch)


async def _send_for_the_duration(
    plan: Plan, client: "Client", bodies: list[bytes], console: Console
) -> Report:
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    cpu_before_s = time.process_time()
    pace = (
        ClosedLoop(plan.duration_s, _clock)
        if plan.rate is None
        else OpenLoop(plan.rate, plan.duration_s, _clock)
    )
    tally = Tally(begins=_clock())
    endless = cycle(bodies)
    workers = [
        asyncio.create_task(_keep_sending(client, endless, pace, tally))
        for _ in range(plan.connections)
    ]
    progress = asyncio.create_task(show_progress(plan, tally, console, _clock))
    interrupted = await _interrupted_in(plan.duration_s + _PATIENCE_S, workers)
    sending_s = min(plan.duration_s, _clock() - tally.begins) if interrupted else plan.duration_s
    pace.stop()
    if interrupted:
        await _nothing_in_flight(tally)
    await _end(workers)
    await _end([progress])
    return summarise(
        plan,
        tally,
        started_at=started_at,
        sending_s=sending_s,
        cpu_s=time.process_time() - cpu_before_s,
        n_unsent=pace.n_unsent(),
        interrupted=interrupted,
    )


async def _keep_sending(
    client: "Client", bodies: Iterator[bytes], pace: ClosedLoop | OpenLoop, tally: Tally
) -> None:
    """One connection's work, until the pace has no next request."""
    broke = False
    while (start := await pace.next_start(connection_broke=broke)) is not None:
        body = next(bodies)
        tally.bytes_sent += len(body)
        tally.n_in_flight += 1
        try:
            answer = await client.predict(body)
        except asyncio.CancelledError:
            tally.failures["unfinished"] += 1
            raise
        finally:
            tally.n_in_flight -= 1
        tally.add(answer, start=start, finished=_clock())
        broke = answer.status is None


async def _interrupted_in(timeout_s: float, workers: list[asyncio.Task[None]]) -> bool:
    """Wait until the workers are done, or the time is up; True if Ctrl-C came first.

    asyncio.run turns the first Ctrl-C into a cancellation of this task.
    """
    try:
        await asyncio.wait(workers, timeout=timeout_s, return_when=asyncio.FIRST_EXCEPTION)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
        return True
    return False


async def _nothing_in_flight(tally: Tally) -> None:
    patience_ends = _clock() + _PATIENCE_S
    while tally.n_in_flight and _clock() < patience_ends:
        await asyncio.sleep(0.01)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel what still runs. Raises what a task raised."""
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
