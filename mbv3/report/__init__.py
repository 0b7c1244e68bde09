"""A run directory as one HTML file: tables to numbers, numbers to figures, figures to a page."""

from mbv3.report.page import write_report

__all__ = ["write_report"]
