"""`mbv3 import`: files, images, what is written, what is said, and what is refused."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mbv3.cli import main
from mbv3.data import decode_all, find_images, normalise
from mbv3.errors import BadInput, Mbv3Error
from mbv3.export import export, loaded, read_any_weights
from mbv3.graph import Found, Recipe, calibrate, mixed, network_model, network_tflite, quantized
from mbv3.nn import build, statistics
from mbv3.runs import export_to, import_from, import_sources, train
from mbv3.spec import MEAN, STD, ArchSpec, dump_spec, load_spec, parse_spec
from mbv3.training import read_weights, save_weights
from tests.moved import moved

SIZE = (32, 32)


@pytest.fixture(scope="module")
def spec() -> ArchSpec:
    full = load_spec("mobilenet_v3_small@0.35")
    return replace(full, name="small", resolution=SIZE, head=replace(full.head, classes=3), padding="tensorflow")


@pytest.fixture(scope="module")
def state(spec: ArchSpec) -> dict[str, torch.Tensor]:
    return moved(build(spec, 3)).state_dict()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 small photographs in three class folders."""
    root, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for c, name in enumerate(("ant", "bee", "cat")):
        (root / name).mkdir()
        for i in range(8):
            tint = 60 * c + rng.integers(0, 60, (8, 8, 3))
            pixels = np.kron(tint, np.ones((5, 5, 1))).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")
    return root


def arrays(state: dict[str, torch.Tensor]) -> dict[str, Any]:
    return {k: v.numpy() for k, v in state.items()}


@pytest.fixture
def onnx(spec: ArchSpec, state: dict[str, torch.Tensor], tmp_path: Path) -> Path:
    file = tmp_path / "net.onnx"
    file.write_bytes(network_model(spec, arrays(state)))
    return file


def answers(spec: ArchSpec, state: dict[str, torch.Tensor]) -> torch.Tensor:
    pixels = np.random.default_rng(5).integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)
    with torch.no_grad():
        return loaded(spec, state)(normalise(pixels, SIZE, by=(spec.mean, spec.std)))  # type: ignore[no-any-return]


def same(folder: Path, spec: ArchSpec, state: dict[str, torch.Tensor]) -> float:
    """How far the written network's answers to the same pixels are from those before."""
    back = load_spec(folder / "network.yaml")
    got, want = answers(back, read_weights(folder / "weights.safetensors")), answers(spec, state)
    return float((got - want).abs().max() / want.abs().max())


def test_an_onnx_file_with_images(
    spec: ArchSpec, state: dict[str, torch.Tensor], onnx: Path, photos: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    assert main(["import", str(onnx), "--out", str(tmp_path / "out"), "--data", str(photos)]) == 0
    said = capsys.readouterr()
    assert "11 rows" in said.out and "padding tensorflow" in said.out
    assert "34 folded, unfolded by statistics of 24 images" in said.out
    assert f"16 images of {photos}, run by ONNX Runtime: answers differ by at most" in said.out
    assert "does not say what numbers its input takes: ImageNet's mean and deviation are assumed" in said.err
    assert same(tmp_path / "out", spec, state) < 1e-4
    weights = read_weights(tmp_path / "out" / "weights.safetensors")
    assert (weights["stem.bn.running_var"] != 1).all() and weights["stem.bn.running_mean"].any()
    notes = dict(load_spec(tmp_path / "out" / "network.yaml").provenance)
    assert notes["imported from"] == "net.onnx" and len(str(notes["sha256"])) == 64


def test_without_images_it_says_what_that_means(onnx: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", str(onnx), "--out", str(tmp_path / "out"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["folded"] == 34 and said["unfolded_on"] == 0 and said["checked"]["on"] == "drawn images"
    assert said["checked"]["relative"] < 1e-4 and said["checked"]["agree"] == said["checked"]["n"] == 8
    assert any(
        "the first step of a training would destroy them: give images with --data DIR" in n for n in said["notes"]
    )
    found = read_any_weights(tmp_path / "out" / "weights.safetensors", load_spec(tmp_path / "out" / "network.yaml"))
    assert any("34 batch norms were folded" in note for note in found.notes)  # a training says it again


def test_our_own_files_say_their_numbers_and_names(
    spec: ArchSpec, state: dict[str, torch.Tensor], photos: Path, tmp_path: Path
) -> None:
    own = replace(spec, mean=(0.5, 0.4, 0.3), std=(0.25, 0.5, 1.0))
    for to, file in (("onnx", "mobilenetv3.onnx"), ("litert", "mobilenetv3.tflite")):
        made = export(own, state, to, labels=("ant", "bee", "cat"))
        (tmp_path / file).write_bytes(made.files[file])
        result = import_from(tmp_path / file, out=tmp_path / to, data=str(photos))
        assert result.spec.mean == pytest.approx(own.mean) and result.spec.std == pytest.approx(own.std)
        assert result.labels == ("ant", "bee", "cat") and not any("assumed" in note for note in result.notes)
        assert result.checked is not None and result.checked.relative < 1e-4
        assert same(tmp_path / to, own, state) < 1e-4


def test_the_numbers_of_an_input_can_be_given(
    spec: ArchSpec, state: dict[str, torch.Tensor], onnx: Path, photos: Path, tmp_path: Path
) -> None:
    result = import_from(onnx, out=tmp_path / "out", data=str(photos), mean="0.5", std="0.5,0.25,0.5")
    assert result.spec.mean == (0.5, 0.5, 0.5) and result.spec.std == (0.5, 0.25, 0.5)
    assert same(tmp_path / "out", replace(spec, mean=result.spec.mean, std=result.spec.std), state) < 1e-4


def test_a_tflite_file_without_a_word_is_taken_as_keras_has_it(
    spec: ArchSpec, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    (tmp_path / "n.tflite").write_bytes(network_tflite(spec, arrays(state)))
    result = import_from(tmp_path / "n.tflite", out=tmp_path / "out")
    assert result.spec.mean == result.spec.std == (0.5, 0.5, 0.5) and "RGB from -1 to 1 is assumed" in result.notes[0]
    assert result.checked is not None and result.checked.by == "LiteRT" and result.checked.relative < 1e-4


def test_labels_that_tflite_packs_behind_a_model(
    spec: ArchSpec, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as z:
        z.writestr("labels.txt", "ant\nbee\ncat\n")
    file = tmp_path / "n.tflite"
    file.write_bytes(network_tflite(spec, arrays(state)) + packed.getvalue())
    assert import_from(file, out=tmp_path / "out").labels == ("ant", "bee", "cat")


def test_an_int8_file_says_how_many_answers_agree(
    spec: ArchSpec, state: dict[str, torch.Tensor], photos: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    seen = [rng.standard_normal((1, 3, *SIZE), dtype=np.float32) for _ in range(4)]
    (tmp_path / "i.onnx").write_bytes(quantized(network_model(spec, arrays(state)), seen))
    result = import_from(tmp_path / "i.onnx", out=tmp_path / "out", data=str(photos))
    assert result.integer and result.checked is not None and not result.checked.exact
    assert 0 < result.checked.relative < 0.5 and 0 <= result.checked.agree <= 16
    assert result.as_dict()["checked"]["agree"] == result.checked.agree


@pytest.mark.parametrize("clip", [False, True])
def test_the_int8_file_that_export_chooses(
    spec: ArchSpec, state: dict[str, torch.Tensor], photos: Path, tmp_path: Path, clip: bool
) -> None:
    """Its h-swish and hard sigmoids are products of codes, its ReLUs the ends of codes."""
    by = (spec.mean, spec.std)
    pixels = np.random.default_rng(5).integers(0, 256, (8, *SIZE, 3), dtype=np.uint8)
    seen = [normalise(p[None], SIZE, by=by).contiguous().numpy() for p in pixels]
    model = network_model(spec, arrays(state))
    names = {"stem.act:0": 0.1} if clip else {}
    (tmp_path / "m.onnx").write_bytes(mixed(model, calibrate(model, seen), Recipe(floats=("stem",), clips=names)))
    result = import_from(tmp_path / "m.onnx", out=tmp_path / "out", data=str(photos))
    assert [(r.nl, r.se) for r in result.spec.rows] == [(r.nl, r.se) for r in spec.rows]
    assert same(tmp_path / "out", spec, state) < 0.1


# ---- the roads that begin with it ----------------------------------------------------------------------------


def test_what_was_imported_is_trained_and_exported(
    spec: ArchSpec, state: dict[str, torch.Tensor], onnx: Path, photos: Path, tmp_path: Path
) -> None:
    """A training takes the file's own mean and deviation, and the exported file says them."""
    import_from(onnx, out=tmp_path / "in", data=str(photos), mean="0.5", std="0.5")
    weights = str(tmp_path / "in" / "weights.safetensors")
    run = train(str(tmp_path / "in" / "network.yaml"), data=str(photos), init=weights, out=tmp_path / "run", epochs=1)
    trained = load_spec(run.folder / "network.yaml")
    assert trained.mean == trained.std == (0.5, 0.5, 0.5) and trained.padding == "tensorflow"
    with (tmp_path / "run" / "weights.safetensors").open("rb") as f:
        assert b'\\"mean\\": [0.5, 0.5, 0.5]' in f.read(20_000)
    export_to(trained, "onnx", weights=str(run.weights), out=tmp_path / "e.onnx")
    again = import_from(tmp_path / "e.onnx", out=tmp_path / "again", data=str(photos))
    assert again.spec.mean == again.spec.std == (0.5, 0.5, 0.5) and again.labels == ("ant", "bee", "cat")
    # under the name of a network, weights bring their mean, deviation and padding along
    named = replace(spec, padding="both", mean=MEAN, std=STD)
    found = read_any_weights(Path(weights), named)
    assert (found.spec.mean, found.spec.padding) == ((0.5, 0.5, 0.5), "tensorflow")
    assert statistics(build(found.spec, 0)) == ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_spec_keeps_its_numbers(spec: ArchSpec) -> None:
    own = replace(spec, mean=(0.5, 0.25, 0.0), std=(1.0, 0.5, 1 / 255))
    assert parse_spec(dump_spec(own)) == own and "mean" not in dump_spec(spec)
    for wrong, match in (
        ("mean: [0.5, 0.5]", r"input.mean: must be three numbers"),
        ("std: [0, 1, 1]", r"input.std: must be three numbers"),
        ("mean: 0.5", r"input.mean: must be three numbers"), ("mean: [.nan, 0, 0]", r"input.mean"),
    ):  # fmt: skip
        text = dump_spec(spec).replace("channels: 3}", f"channels: 3, {wrong}}}")
        with pytest.raises(BadInput, match=match):
            parse_spec(text)
    with pytest.raises(BadInput, match=r"input.mean: only images of 3 channels have their own"):
        replace(own, in_channels=1)


# ---- what cannot be imported ---------------------------------------------------------------------------------


def test_a_network_that_answers_otherwise_is_not_written(
    onnx: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = import_sources.answers

    def off(content: bytes, found: Found, images: Any, source: str) -> Any:
        return real(content, found, images, source) * 1.001

    monkeypatch.setattr(import_sources, "answers", off)
    with pytest.raises(Mbv3Error, match=r"net.onnx: what was read of it answers otherwise, so nothing is written: 16 "):
        import_from(onnx, out=tmp_path / "out", data=str(photos))
    assert not (tmp_path / "out").exists()


def test_weights_that_are_not_finite(spec: ArchSpec, state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    broken = {**state, "rows.2.expand.conv.weight": state["rows.2.expand.conv.weight"] * float("nan")}
    (tmp_path / "n.onnx").write_bytes(network_model(spec, arrays(broken)))
    with pytest.raises(
        BadInput, match=r"n.onnx: weights that no network can answer with: rows\.2\.expand\.conv\.weight"
    ):
        import_from(tmp_path / "n.onnx", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_places_and_options_that_do_not_go_together(onnx: Path, photos: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("x")
    files = {
        "keras.h5": (b"\x89HDF\r\n\x1a\n" + bytes(100), "is an HDF5 file of Keras; convert it with"),
        "torch.pth": (b"PK\x03\x04" + bytes(100), "is a zip file, .* weights of a known network are taken with --init"),
        "text.onnx": (b"hello, this is no network", "is no ONNX file"),
        "empty.onnx": (b"", "is no ONNX file"),
        "lfs.tflite": (b"version https://git-lfs.github.com/spec/v1", "is a pointer of Git LFS"),
    }
    for name, (content, match) in files.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BadInput, match=f"{name}: {match}"):
            import_from(tmp_path / name, out=tmp_path / "out")
    save_weights(tmp_path / "w.safetensors", {"a": torch.zeros(1)})
    cases: list[tuple[Any, dict[str, Any], str]] = [
        (tmp_path / "w.safetensors", {}, "weights and no network; give it to --init or --weights"),
        (tmp_path / "gone.onnx", {}, "no such file; give a .tflite or .onnx file, or timm:NAME"),
        (tmp_path, {}, "is a folder; name the .tflite or .onnx file in it"),
        (onnx, {"out": tmp_path / "full"}, "already exists, and nothing is overwritten"),
        (onnx, {"data": str(tmp_path / "full")}, "holds no images"),
        (onnx, {"mean": "0.5"}, "--mean and --std go together"),
        (onnx, {"mean": "0.5,1", "std": "1"}, "--mean must be one number or three"),
        (onnx, {"mean": "0", "std": "0"}, "--std must be above 0"),
        (onnx, {"spec_only": True}, "--spec-only: is for timm: and torchvision: names"),
        (onnx, {"resolution": "64"}, r"--resolution 64x64: .*net.onnx takes images of 32x32; resize with mbv3 train"),
        (onnx, {"stem": 8}, "--stem, --features: belong to timm's block strings"),
    ]
    for source, options, match in cases:
        with pytest.raises(BadInput, match=match):
            import_from(source, **{"out": tmp_path / "out", **options})
    assert not (tmp_path / "out").exists()


def test_init_sends_a_network_here(onnx: Path, spec: ArchSpec) -> None:
    with pytest.raises(BadInput, match=r"net.onnx: is a network in operators; make weights of it first: mbv3 import"):
        read_any_weights(onnx, spec)
    with pytest.raises(BadInput, match=r"timm:mobilenetv3_small_100: names a network of a library; fetch it first"):
        read_any_weights(Path("timm:mobilenetv3_small_100"), spec)


# ---- the real files ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small"])
def test_googles_int8_files(name: str, data: Path, tmp_path: Path) -> None:
    """Their rows are those of the papers, and the floats know photographs that ImageNet's trainings saw."""
    file, archive = data / "pretrained" / f"{name}_imagenet_int8.tflite", data / "imagenet500-256.tar"
    if not file.is_file() or not archive.is_file():
        pytest.skip(f"{file} and {archive} are not there")
    with tarfile.open(archive) as t:
        members = [m for m in t.getmembers() if m.isfile()][:40]
        t.extractall(tmp_path / "photos", members=members, filter="data")
    result = import_from(file, out=tmp_path / "out", data=str(tmp_path / "photos"))
    ours, back = load_spec(name), load_spec(tmp_path / "out" / "network.yaml")
    assert [row.plain() for row in back.rows] == [row.plain() for row in ours.rows]
    assert (back.stem, back.tail, back.padding) == (ours.stem, ours.tail, "tensorflow")
    assert result.integer and result.unfolded_on == 40 and back.mean == pytest.approx((0.5,) * 3, abs=0.01)
    files = find_images(tmp_path / "photos")
    truth = np.array([int(f.stem.rpartition("_")[2]) + 1 for f in files])  # class 0 is the background
    pixels = decode_all(files, back.resolution, tmp_path, "middle").pixels[np.arange(len(files))]
    net = loaded(back, read_weights(tmp_path / "out" / "weights.safetensors"))
    with torch.no_grad():
        best = net(normalise(pixels, back.resolution, by=(back.mean, back.std))).argmax(1).numpy()
    assert (best == truth).mean() > 0.6, f"{(best == truth).sum()} of {len(files)}"
