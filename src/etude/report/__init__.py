"""Reports of runs: a self-contained HTML page, and a short summary in the terminal."""

from etude.report.page import inspection_page, report
from etude.report.summary import terminal_summary

__all__ = ["inspection_page", "report", "terminal_summary"]
