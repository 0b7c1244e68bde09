"""Ops to model files, written directly: a block takes 1 ms; the exporters of torch take 20 to 660 ms."""

from mbv3.graph.answers import answers
from mbv3.graph.codes import CLIPS, PROBE, Calibration, Code, calibrate, code_of, probe
from mbv3.graph.found import Found, Norm, Pads, Pen, Step, Value, refuse
from mbv3.graph.from_onnx import read_onnx
from mbv3.graph.from_tflite import read_tflite
from mbv3.graph.mixed import Recipe, coded_activations, mixed, parts, weight_steps
from mbv3.graph.onnx import fold, layer_model, network_model, onnx_weights, random_weights
from mbv3.graph.portable import OPSETS, Batch, check_opset, opset_note, portable
from mbv3.graph.quantize import quantized
from mbv3.graph.tflite import layer_tflite, network_tflite, tflite_weights
from mbv3.graph.tidy import tidy

__all__ = [
    "CLIPS",
    "OPSETS",
    "PROBE",
    "Batch",
    "Calibration",
    "Code",
    "Found",
    "Norm",
    "Pads",
    "Pen",
    "Recipe",
    "Step",
    "Value",
    "answers",
    "calibrate",
    "check_opset",
    "code_of",
    "coded_activations",
    "fold",
    "layer_model",
    "layer_tflite",
    "mixed",
    "network_model",
    "network_tflite",
    "onnx_weights",
    "opset_note",
    "parts",
    "portable",
    "probe",
    "quantized",
    "random_weights",
    "read_onnx",
    "read_tflite",
    "refuse",
    "tflite_weights",
    "tidy",
    "weight_steps",
]
