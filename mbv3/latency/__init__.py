"""LAT of layers on a device: the timing protocol, latency tables, calibration, cost model, other devices."""

from mbv3.latency.adb import measure_over_adb
from mbv3.latency.build import (
    ERROR,
    MINUTES,
    BuildPlan,
    build_table,
    check_minutes,
    network_time,
    noise_warning,
    table_path,
)
from mbv3.latency.calibration import Calibration, NetworkTime, fit_calibration, weights_mb
from mbv3.latency.check import CHECK_MINUTES, CheckReport, check_table
from mbv3.latency.conditions import timed_core, undisturbed
from mbv3.latency.costmodel import FEATURES, CostModel, features, fit_cost_model
from mbv3.latency.device import Device, Measured
from mbv3.latency.fingerprint import Fingerprint, this_cpu
from mbv3.latency.kit import import_kit, kit_files, write_kit
from mbv3.latency.metrics import Fidelity, fidelity
from mbv3.latency.networks import MeasuredNetworks, read_networks
from mbv3.latency.profiles import load_profile, profile_names
from mbv3.latency.protocol import interleave, p10
from mbv3.latency.runner import least_s
from mbv3.latency.runtime import (
    RUNTIMES,
    Here,
    Runtime,
    check_portable,
    check_runtime,
    open_runtime,
    register_runtime,
    runtime_names,
)
from mbv3.latency.ssh import measure_over_ssh
from mbv3.latency.table import LatencyTable, Prediction, Timed
from mbv3.latency.timers import NETWORK_ROUNDS
from mbv3.latency.transfer import FIT, most_informative, transfer, work_ms

__all__ = [
    "CHECK_MINUTES",
    "ERROR",
    "FEATURES",
    "FIT",
    "MINUTES",
    "NETWORK_ROUNDS",
    "RUNTIMES",
    "BuildPlan",
    "Calibration",
    "CheckReport",
    "CostModel",
    "Device",
    "Fidelity",
    "Fingerprint",
    "Here",
    "LatencyTable",
    "Measured",
    "MeasuredNetworks",
    "NetworkTime",
    "Prediction",
    "Runtime",
    "Timed",
    "build_table",
    "check_minutes",
    "check_portable",
    "check_runtime",
    "check_table",
    "features",
    "fidelity",
    "fit_calibration",
    "fit_cost_model",
    "import_kit",
    "interleave",
    "kit_files",
    "least_s",
    "load_profile",
    "measure_over_adb",
    "measure_over_ssh",
    "most_informative",
    "network_time",
    "noise_warning",
    "open_runtime",
    "p10",
    "profile_names",
    "read_networks",
    "register_runtime",
    "runtime_names",
    "table_path",
    "this_cpu",
    "timed_core",
    "transfer",
    "undisturbed",
    "weights_mb",
    "work_ms",
    "write_kit",
]
