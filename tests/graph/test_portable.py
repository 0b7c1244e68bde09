"""Files for others' readers: any batch, other opsets, and what an app must know."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest

from mbv3.errors import BadInput
from mbv3.export import export
from mbv3.graph import Batch, network_model, network_tflite, opset_note, portable, quantized
from mbv3.nn import build
from mbv3.spec import ArchSpec, Classify, load_spec, with_head

SMALL = replace(load_spec("mobilenet_v3_small"), resolution=(64, 96))
SEGMENT = with_head(SMALL, "lraspp", 5)
MEAN_LINE = '"mean": [0.485, 0.456, 0.406]'


def session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def images(n: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 3, 64, 96), dtype=np.float32)


def one_by_one(model: bytes, x: np.ndarray) -> np.ndarray:
    run = session(model)
    return np.concatenate([run.run(None, {"input": image[None]})[0] for image in x])


@pytest.mark.parametrize("spec", [SMALL, SEGMENT], ids=["classify", "segment"])
@pytest.mark.parametrize("batch", [3, "dynamic"])
@pytest.mark.parametrize("int8", [False, True])
def test_images_at_once_get_the_answers_that_they_get_alone(spec: ArchSpec, batch: Batch, int8: bool) -> None:
    model = quantized(network_model(spec)) if int8 else network_model(spec)
    several = portable(model, batch=batch)
    onnx.checker.check_model(onnx.load_from_string(several))
    run = session(several)
    assert run.get_inputs()[0].shape[0] == run.get_outputs()[0].shape[0] == ("batch" if batch == "dynamic" else 3)
    for n in (3,) if batch == 3 else (1, 5):
        want = one_by_one(model, images(n))
        # int8: an intermediate value that lies between two steps may fall to either
        np.testing.assert_allclose(run.run(None, {"input": images(n)})[0], want, rtol=1e-3,
                                   atol=(0.1 if int8 else 1e-4) * float(np.abs(want).max()))  # fmt: skip


@pytest.mark.parametrize("spec", [SMALL, SEGMENT], ids=["classify", "segment"])
@pytest.mark.parametrize("opset", [11, 12, 13, 14, 17, 18, 21])
def test_every_opset_gives_the_same_answers(spec: ArchSpec, opset: int) -> None:
    model = network_model(spec)
    other = portable(model, opset=opset, batch="dynamic")
    read = onnx.load_from_string(other)
    onnx.checker.check_model(read, full_check=True)
    assert [o.version for o in read.opset_import] == [opset]
    assert any(n.op_type == "HardSwish" for n in read.graph.node) == (opset >= 14)
    want = one_by_one(model, images(2))
    np.testing.assert_allclose(session(other).run(None, {"input": images(2)})[0], want, rtol=1e-3,
                               atol=1e-4 * float(np.abs(want).max()))  # fmt: skip


def test_what_is_not_asked_for_stays_as_it_is() -> None:
    model = network_model(SMALL)
    assert portable(model) == model


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"opset": 10}, r"--opset must be from 11 to 21 \(got 10\)"), ({"opset": 99}, r"\(got 99\)"),
     ({"batch": 0}, r"--batch must be a number from 1, or dynamic \(got 0\)")],
)  # fmt: skip
def test_what_cannot_be_written_is_refused(asked: dict[str, int], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        portable(network_model(SMALL), **asked)  # type: ignore[arg-type]


def test_int8_needs_scales_a_channel() -> None:
    with pytest.raises(BadInput, match=r"--opset 12 --precision int8: one scale a channel is there since opset 13"):
        portable(quantized(network_model(SMALL)), opset=12)


@pytest.mark.parametrize("batch", [1, 3, "dynamic"])
def test_litert_takes_a_batch(batch: Batch) -> None:
    interpreter_module = pytest.importorskip("ai_edge_litert.interpreter")
    x = images(3).transpose(0, 2, 3, 1)

    def answers(content: bytes, n: int, resize: bool = False) -> np.ndarray:
        run = interpreter_module.Interpreter(model_content=content)
        at = run.get_input_details()[0]["index"]
        if resize:
            run.resize_tensor_input(at, (n, 64, 96, 3))
        run.allocate_tensors()
        out = []
        for i in range(0, 3, n):
            run.set_tensor(at, x[i : i + n])
            run.invoke()
            out.append(run.get_tensor(run.get_output_details()[0]["index"]))
        return np.concatenate(out)

    want = answers(network_tflite(SMALL), 1)
    n = 1 if batch == 1 else 3
    got = answers(network_tflite(SMALL, batch=batch), n, batch == "dynamic")
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4 * float(np.abs(want).max()))


LABELS = ("zebra finch", "猫", "axolotl")
THREE = replace(SMALL, head=Classify(features=16, classes=3))


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_onnx_file_says_what_an_app_must_know(precision: str) -> None:
    made = export(THREE, build(THREE, 0).state_dict(), "onnx", precision=precision, labels=LABELS, batch="dynamic")
    props = session(made.files["mobilenetv3.onnx"]).get_modelmeta().custom_metadata_map
    about = json.loads(props["mbv3"])
    assert tuple(about["labels"]) == LABELS == tuple(props["labels"].split("\n"))
    assert (about["mean"], about["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


def test_a_litert_file_says_it_too() -> None:
    pytest.importorskip("ai_edge_litert")
    made = export(THREE, build(THREE, 0).state_dict(), "litert", labels=LABELS)
    content = made.files["mobilenetv3.tflite"]
    assert "\n".join(LABELS).encode() in content and MEAN_LINE.encode() in content
    run = pytest.importorskip("ai_edge_litert.interpreter").Interpreter(model_content=content)
    run.allocate_tensors()


def test_labels_of_another_network_are_refused() -> None:
    state = build(THREE, 0).state_dict()
    with pytest.raises(BadInput, match="2 labels for a network of 3 classes"):
        export(THREE, state, "onnx", labels=LABELS[:2])
    for to, asked, said in (
        ("torchvision", {"batch": 4}, r"--to torchvision --batch 4: the network of a framework takes any batch"),
        ("timm", {"opset": 13}, r"--to timm --opset 13: only ONNX files have an opset"),
        ("litert", {"opset": 13}, r"--to litert --opset 13"),
    ):
        with pytest.raises(BadInput, match=said):
            export(THREE, state, to, **asked)  # type: ignore[arg-type]


def test_readers_of_older_opsets_are_told_what_they_get() -> None:
    spec = load_spec("mobilenet_v3_small")
    model = network_model(spec)
    n = sum(node.op_type == "HardSwish" for node in onnx.load_from_string(model).graph.node)
    assert opset_note(model, 13).startswith(f"opset 13: {n} h-swish are written as HardSigmoid and Mul, as HardSwish")
    assert export(spec, build(spec, 0).state_dict(), "onnx", opset=13).notes == (opset_note(model, 13),)
    assert opset_note(model, 14) == opset_note(model, None) == ""
    assert opset_note(network_model(load_spec("mobilenet_v2")), 11) == ""


def test_a_label_is_a_line_whatever_it_is_called() -> None:
    spec = replace(SMALL, head=replace(SMALL.head, classes=3))
    labels = ["two\nlines", "b\r\nc", "猫"]
    made = export(spec, build(spec, 0).state_dict(), "onnx", labels=labels)
    [content] = made.files.values()
    about = {p.key: p.value for p in onnx.load_from_string(content).metadata_props}
    assert about["labels"].split("\n") == ["two lines", "b c", "猫"]
    assert json.loads(about["mbv3"])["labels"] == labels
