"""LAT of a search space: the reference network, the table of a space, predictions, whole measurements, checks."""

from mbv3.tables.build import build_table, build_table_events
from mbv3.tables.check import check, check_count, informative_networks, panel_of, unseen_networks
from mbv3.tables.devices import KnownDevices, Profile, known_devices
from mbv3.tables.draw import calibration_network, calibration_networks, cut_network, random_networks
from mbv3.tables.kit import WrittenKit, write_space_kit
from mbv3.tables.lean import lean_plan, minutes_of, part_note
from mbv3.tables.measure import (
    AIM,
    VERDICT_PARTS,
    VERDICT_S,
    MeasuredList,
    MeasuredTime,
    Whole,
    measure_list,
    measure_network,
    measure_verdict,
    measure_whole,
)
from mbv3.tables.open import (
    TABLE_MINUTES,
    OpenTable,
    build_remote,
    choose_table,
    open_table,
    profile_caveat,
    read_table,
)
from mbv3.tables.plan import scaled_space, space_id, space_of, table_of_several, table_plan
from mbv3.tables.predict import Latency, PredictedTime, predict
from mbv3.tables.reference import REFERENCE, reference_at, reference_of
from mbv3.tables.several import SeveralLatency, one_space
from mbv3.tables.transfer import transfer_list

__all__ = [
    "AIM",
    "REFERENCE",
    "TABLE_MINUTES",
    "VERDICT_PARTS",
    "VERDICT_S",
    "KnownDevices",
    "Latency",
    "MeasuredList",
    "MeasuredTime",
    "OpenTable",
    "PredictedTime",
    "Profile",
    "SeveralLatency",
    "Whole",
    "WrittenKit",
    "build_remote",
    "build_table",
    "build_table_events",
    "calibration_network",
    "calibration_networks",
    "check",
    "check_count",
    "choose_table",
    "cut_network",
    "informative_networks",
    "known_devices",
    "lean_plan",
    "measure_list",
    "measure_network",
    "measure_verdict",
    "measure_whole",
    "minutes_of",
    "one_space",
    "open_table",
    "panel_of",
    "part_note",
    "predict",
    "profile_caveat",
    "random_networks",
    "read_table",
    "reference_at",
    "reference_of",
    "scaled_space",
    "space_id",
    "space_of",
    "table_of_several",
    "table_plan",
    "transfer_list",
    "unseen_networks",
    "write_space_kit",
]
