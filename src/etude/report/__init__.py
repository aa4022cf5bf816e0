"""What a person reads of a run: one page that stands on its own, and a short table in the terminal."""

from etude.report.page import inspection_page, report
from etude.report.summary import terminal_summary

__all__ = ["inspection_page", "report", "terminal_summary"]
