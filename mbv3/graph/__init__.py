"""Ops to runtime files, written directly (a block takes a millisecond; torch's exporters take 20 to 660)."""

from mbv3.graph.onnx import fold, layer_model, network_model, random_weights

__all__ = ["fold", "layer_model", "network_model", "random_weights"]
