"""A report's figures as labels and text, the same in the terminal and on the page."""

from tabserve.bench.plan import Plan
from tabserve.bench.report import Report

# From here on the load generator's own work is part of what is measured.
_BUSY_CLIENT = 0.9

Figures = list[tuple[str, str]]


def load(plan: Plan) -> str:
    """The load in one phrase."""
    rows = "" if plan.batch is None else f", {plan.batch:,} rows a request"
    if plan.rate is None:
        return f"closed loop, {_connections(plan)}{rows}"
    return f"open loop, {plan.rate:,g} requests/s over at most {_connections(plan)}{rows}"


def throughput(report: Report) -> Figures:
    plan = report.plan
    figures = [
        ("target", plan.url + plan.predict_path),
        ("model version", report.model_version or "not told"),
        ("started", report.started_at),
        ("load", load(plan)),
        ("duration", f"{report.elapsed_s:.1f} s{', interrupted' if report.interrupted else ''}"),
        ("requests", f"{report.requests:,}, of these {report.succeeded:,} with status 200"),
        ("requests/s", f"{report.requests_per_s:,.1f}"),
        ("rows/s", f"{report.rows_per_s:,.1f}"),
        ("sent, received", f"{size(report.bytes_sent)}, {size(report.bytes_received)}"),
    ]
    if report.unsent:
        figures.append(("due but never sent", f"{report.unsent:,}"))
    return figures


def latencies(report: Report) -> Figures:
    """Empty when nothing succeeded."""
    latency = report.latency_ms
    if latency is None:
        return []
    return [
        ("min", ms(latency.min)),
        ("mean", ms(latency.mean)),
        ("p50", ms(latency.p50)),
        ("p90", ms(latency.p90)),
        ("p95", ms(latency.p95)),
        ("p99", ms(latency.p99)),
        ("p99.9", ms(latency.p99_9)),
        ("max", ms(latency.max)),
    ]


def errors(report: Report) -> Figures:
    return [
        (label, f"{count:,} ({count / report.requests:.1%})")
        for label, count in report.errors.items()
    ]


def remarks(report: Report) -> list[str]:
    """What a reader must know before he trusts the figures."""
    found = []
    if not report.succeeded:
        found.append("No request succeeded, so there are no latencies.")
    if report.unsent:
        found.append(
            f"{report.unsent:,} requests were due and never sent, for all connections were busy:"
            " the latencies are better than what callers at this rate would see."
        )
    if report.client_cpu > _BUSY_CLIENT:
        found.append(
            f"The load generator used {report.client_cpu:.0%} of a core:"
            " the server may be faster than these figures."
        )
    return found


def ms(value: float) -> str:
    """Three significant digits, without an exponent."""
    decimals = 3 if value < 1 else 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{decimals}f} ms"


def size(n_bytes: float) -> str:
    for unit in ("B", "kB", "MB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} B" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:,.1f} GB"


def _connections(plan: Plan) -> str:
    return "1 connection" if plan.connections == 1 else f"{plan.connections:,} connections"
