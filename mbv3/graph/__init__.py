"""Ops to model files, written directly: a block takes 1 ms; the exporters of torch take 20 to 660 ms."""

from mbv3.graph.onnx import fold, layer_model, network_model, onnx_weights, random_weights
from mbv3.graph.portable import OPSETS, Batch, portable
from mbv3.graph.quantize import quantized
from mbv3.graph.tflite import layer_tflite, network_tflite, tflite_weights

__all__ = [
    "OPSETS",
    "Batch",
    "fold",
    "layer_model",
    "layer_tflite",
    "network_model",
    "network_tflite",
    "onnx_weights",
    "portable",
    "quantized",
    "random_weights",
    "tflite_weights",
]
