"""Load test of a TabServe server: plan it, run it, show and save what came back.

report = run(Plan(url="http://127.0.0.1:8000"), Console())
"""

from tabserve.bench.load import run
from tabserve.bench.page import save_html
from tabserve.bench.plan import Plan
from tabserve.bench.report import Report, check_place, save_json
from tabserve.bench.terminal import show

__all__ = ["Plan", "Report", "check_place", "run", "save_html", "save_json", "show"]
