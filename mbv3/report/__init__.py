"""A run directory as one HTML file: tables to numbers, numbers to figures, figures to a page."""

from mbv3.report.checked import check_plot
from mbv3.report.page import write_report

__all__ = ["check_plot", "write_report"]
