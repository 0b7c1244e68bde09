"""ArchSpec to torch module, heads included; surgery on its weights; what a detector's maps mean."""

from mbv3.nn.build import MEAN, STD, Network, Statistics, build, state_shapes, statistics
from mbv3.nn.detection import Detections, decode, default_boxes, detections, encode, flatten_maps, iou, nms
from mbv3.nn.finite import unusable
from mbv3.nn.heads import HeadNet, Maps
from mbv3.nn.moments import Moments, input_moments
from mbv3.nn.ops import run_op
from mbv3.nn.surgery import ChannelSet, channel_sets, cut_state

__all__ = [
    "MEAN",
    "STD",
    "ChannelSet",
    "Detections",
    "HeadNet",
    "Maps",
    "Moments",
    "Network",
    "Statistics",
    "build",
    "channel_sets",
    "cut_state",
    "decode",
    "default_boxes",
    "detections",
    "encode",
    "flatten_maps",
    "input_moments",
    "iou",
    "nms",
    "run_op",
    "state_shapes",
    "statistics",
    "unusable",
]
