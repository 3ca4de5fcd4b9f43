"""A report's plots as SVG. Import it late: it needs the extra `bench`."""

import re
from collections.abc import Callable
from io import StringIO
from math import isnan, nan
from typing import Any

from tabserve.bench.report import Histogram, Interval, PercentileCurve, Report
from tabserve.errors import MissingExtra

try:
    from matplotlib import rc_context
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
except ModuleNotFoundError as missing:
    raise MissingExtra("matplotlib", "bench") from missing

_BLUE, _ORANGE = "#2f6fb2", "#d1762b"
_INCHES = (6.4, 3.2)

# Text stays text, in the page's own font: sharp, searchable, and a tenth of the size.
_STYLE: dict[Any, Any] = {  # matplotlib's own type lists every name it knows
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
}


def plots(report: Report) -> list[tuple[str, str]]:
    """Title and SVG element of each plot that the report has figures for."""
    drawn = [("Requests/s over time", _svg("rate", lambda axes: _rate(axes, report.intervals)))]
    histogram, curve = report.histogram, report.percentile_curve
    if histogram is None or curve is None:
        return drawn
    return [
        ("Latency of the answers", _svg("histogram", lambda axes: _histogram(axes, histogram))),
        ("Latency by percentile", _svg("percentiles", lambda axes: _curve(axes, curve))),
        *drawn,
        ("Latency over time", _svg("latency", lambda axes: _latency(axes, report.intervals))),
    ]


def _svg(name: str, draw: Callable[[Axes], None]) -> str:
    """The SVG element; its ids begin with the name, so that several fit in one page."""
    with rc_context(_STYLE):
        figure = Figure(figsize=_INCHES, layout="constrained")
        draw(figure.add_subplot())
        text = StringIO()
        figure.savefig(
            text, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
        )
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]  # the XML declaration and the DTD's address do not belong here
    return re.sub(r'(\bid="|href="#|url\(#)', rf"\1{name}-", svg)


def _histogram(axes: Axes, histogram: Histogram) -> None:
    axes.stairs(histogram.counts, histogram.edges_ms, fill=True, color=_BLUE)
    axes.set_xscale("log")
    _readable_ticks(axes.xaxis, histogram.edges_ms[0], histogram.edges_ms[-1])
    axes.set_xlabel("latency, ms")
    axes.set_ylabel("answers")


def _curve(axes: Axes, curve: PercentileCurve) -> None:
    # The axis gives each further nine the same width: 90, 99, 99.9 %
    axes.step([_rarity(percent) for percent in curve.percent], curve.ms, where="post", color=_BLUE)
    axes.set_xscale("log")
    axes.set_yscale("log")
    shown = [p for p in (0, 50, 90, 99, 99.9, 99.99, 99.999) if p <= curve.percent[-1]]
    axes.set_xticks([_rarity(p) for p in shown], [f"{p:g}" for p in shown])
    axes.xaxis.set_minor_locator(NullLocator())
    _readable_ticks(axes.yaxis, curve.ms[0], curve.ms[-1])
    axes.set_xlabel("percentile")
    axes.set_ylabel("latency, ms")


def _rarity(percent: float) -> float:
    """One answer in how many was slower: 10 at the 90th percentile."""
    return 100 / (100 - percent)


def _rate(axes: Axes, intervals: list[Interval]) -> None:
    rates = [interval.requests_per_s for interval in intervals]
    axes.plot(_middles(intervals), rates, ".-", color=_BLUE)
    axes.set_ylabel("requests/s")
    _time_from_zero(axes, max(rates))


def _latency(axes: Axes, intervals: list[Interval]) -> None:
    # A second without an answer leaves a gap: matplotlib draws nothing at NaN
    p99s = [nan if interval.p99_ms is None else interval.p99_ms for interval in intervals]
    p50s = [nan if interval.p50_ms is None else interval.p50_ms for interval in intervals]
    axes.plot(_middles(intervals), p99s, ".-", color=_ORANGE, label="p99")
    axes.plot(_middles(intervals), p50s, ".-", color=_BLUE, label="p50")
    axes.set_ylabel("latency, ms")
    axes.legend(frameon=False)
    _time_from_zero(axes, max(p99 for p99 in p99s if not isnan(p99)))


def _middles(intervals: list[Interval]) -> list[float]:
    return [interval.start_s + 0.5 for interval in intervals]


def _time_from_zero(axes: Axes, highest: float) -> None:
    axes.set_xlim(left=0)
    axes.set_ylim(0, highest * 1.1 or 1)
    axes.set_xlabel("time, s")


def _readable_ticks(axis: Axis, low: float, high: float) -> None:
    """Plain numbers on a logarithmic axis: 1, 2, 5, 10, or evenly spaced ones in a narrow range."""
    wide = high / low > 8
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(6))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())
