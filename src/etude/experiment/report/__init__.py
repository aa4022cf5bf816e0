"""What a person reads of a run: one page that stands on its own, and a short table in the terminal."""

from etude.experiment.report.page import inspection_page, report
from etude.experiment.report.summary import terminal_summary

__all__ = ["inspection_page", "report", "terminal_summary"]
