"""The network that the arguments SPEC, --head, --classes, --output-stride and --resolution name."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

from mbv3.spec import ArchSpec, load_spec, parse_resolution, with_head, with_output_stride

__all__ = ["HEAD_FLAGS", "network"]

HEAD_FLAGS = ("head", "classes", "output_stride", "resolution")


def network(args: Namespace) -> ArchSpec:
    """SPEC with the given head, output stride and resolution. Raises: BadInput."""
    spec = load_spec(args.spec)
    if args.resolution is not None:
        spec = replace(spec, resolution=parse_resolution(args.resolution))
    if args.head is not None or args.classes is not None:
        spec = with_head(spec, args.head or spec.head, args.classes)
    if args.output_stride is not None:
        spec = with_output_stride(spec, args.output_stride)
    return spec
