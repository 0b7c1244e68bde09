"""LAT of a search space: the reference network, the table of a space, predictions, whole measurements, checks."""

from mbv3.tables.check import check, panel_of, telling_networks, unseen_networks
from mbv3.tables.draw import calibration_network, calibration_networks, cut_network, random_networks
from mbv3.tables.open import TABLE_MINUTES, open_table, profile_caveat, read_table
from mbv3.tables.plan import space_id, table_plan
from mbv3.tables.predict import VERDICT_PARTS, Latency, Whole, measure_whole
from mbv3.tables.reference import REFERENCE, reference_at, reference_of

__all__ = [
    "REFERENCE",
    "TABLE_MINUTES",
    "VERDICT_PARTS",
    "Latency",
    "Whole",
    "calibration_network",
    "calibration_networks",
    "check",
    "cut_network",
    "measure_whole",
    "open_table",
    "panel_of",
    "profile_caveat",
    "random_networks",
    "read_table",
    "reference_at",
    "reference_of",
    "space_id",
    "table_plan",
    "telling_networks",
    "unseen_networks",
]
