"""A run directory as one HTML file: tables to numbers, numbers to figures, figures to a page."""

from mbv3.report.check_plot import check_plot
from mbv3.report.front import write_front
from mbv3.report.run_page import write_report
from mbv3.report.training import Box, Panel, contact_sheet, training_curve

__all__ = ["Box", "Panel", "check_plot", "contact_sheet", "training_curve", "write_front", "write_report"]
