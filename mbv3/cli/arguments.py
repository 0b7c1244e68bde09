"""Arguments that several verbs share."""

from __future__ import annotations

from argparse import ArgumentParser

from mbv3.spec import head_names

__all__ = ["SPEC_HELP", "add_common", "add_device", "add_head", "add_timing"]

SPEC_HELP = "YAML file or name, e.g. mobilenet_v3_large@0.75"


def add_common(p: ArgumentParser) -> None:
    """--json."""
    p.add_argument("--json", action="store_true", help="print one JSON object to stdout")


def add_timing(p: ArgumentParser) -> None:
    """--runtime and --threads."""
    p.add_argument(
        "--runtime", default="onnxruntime", metavar="NAME",
        help="what runs the networks: onnxruntime (default), litert (TFLite), ...; `mbv3 latency devices` lists all",
    )  # fmt: skip
    p.add_argument("--threads", type=int, default=1, help="threads of one inference (default 1)")


def add_device(p: ArgumentParser, default: str = "the table of this CPU, measured if the cache has none") -> None:
    """--device and --force-table, for a table that exists. `default`: what happens without it."""
    p.add_argument(
        "--device",
        metavar="TABLE.csv|NAME",
        help=f"a table, or a name from `mbv3 latency devices` (default: {default})",
    )
    p.add_argument("--force-table", action="store_true", help="use a table that was measured elsewhere")


def add_head(p: ArgumentParser) -> None:
    """--head, --classes, --output-stride and --resolution of a SPEC."""
    p.add_argument("--head", metavar="NAME", help="replace the head by one of " + ", ".join(head_names()))
    p.add_argument("--classes", type=int, metavar="N", help="classes of the head, for ssdlite with background")
    p.add_argument("--output-stride", type=int, metavar="8|16|32", help="last feature map at 1/N of the input, dilated")
    p.add_argument("--resolution", metavar="H|HxW", help="the input in pixels (default: that of the network)")
