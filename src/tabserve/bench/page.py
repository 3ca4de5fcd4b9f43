"""A report as one HTML page that needs no internet."""

from html import escape
from pathlib import Path

from tabserve.bench import figures
from tabserve.bench.report import Report, write

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff;
       max-width: 76rem; margin: 2rem auto; padding: 0 1.25rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; }
h2 { font-size: 1.05rem; margin: 1.75rem 0 .5rem; }
.tables, .plots { display: grid; gap: 1rem 2.5rem; }
.plots { margin-top: 2.5rem; }
.tables { grid-template-columns: repeat(auto-fit, minmax(19rem, 1fr)); }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(30rem, 100%), 1fr)); }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .75rem .3rem 0; border-bottom: 1px solid #e4e4e4; }
th { font-weight: normal; color: #666; white-space: nowrap; width: 1%; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.remark { border-left: 4px solid #d1762b; padding: .4rem .9rem; background: #fdf5ee; }
figure { margin: 0; }
figcaption { font-size: 1.05rem; font-weight: bold; margin-bottom: .25rem; }
svg { width: 100%; height: auto; }
"""


def save_html(report: Report, path: Path) -> None:
    """Write the report, with its plots, as one self-contained page.

    Raises MissingExtra without matplotlib, BenchError if the file cannot be written.
    """
    from tabserve.bench.plots import plots  # needs the extra

    title = f"Load test of {escape(report.plan.url)}"
    sections = "".join(
        f"<section><h2>{name}</h2>{_table(lines)}</section>\n"
        for name, lines in (
            ("Run", figures.throughput(report)),
            ("Latency", figures.latencies(report)),
            ("Errors", figures.errors(report)),
        )
        if lines
    )
    remarks = "".join(f'<p class="remark">{escape(r)}</p>\n' for r in figures.remarks(report))
    drawings = "".join(
        f"<figure><figcaption>{escape(caption)}</figcaption>{svg}</figure>\n"
        for caption, svg in plots(report)
    )
    page = (
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy"'
        " content=\"default-src 'none'; style-src 'unsafe-inline'; img-src data:\">\n"
        f"<title>{title}</title>\n<style>{_STYLE}</style>\n<h1>{title}</h1>\n{remarks}"
        f'<div class="tables">\n{sections}</div>\n<div class="plots">\n{drawings}</div>\n'
    )
    write(path, page.encode())


def _table(lines: figures.Figures) -> str:
    cells = "".join(
        f"<tr><th scope=row>{escape(label)}</th><td>{escape(text)}</td></tr>"
        for label, text in lines
    )
    return f"<table>{cells}</table>"
