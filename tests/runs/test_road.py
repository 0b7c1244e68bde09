"""`mbv3-search --init` and `mbv3 netadapt --init`: what is delivered, recorded, resumed and refused."""

from __future__ import annotations

import json
import re
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mbv3.latency import LatencyTable
from mbv3.nn import build
from mbv3.runs import find_events
from mbv3.space import load_space
from mbv3.spec import ArchSpec, Classify, Conv, MBConv, dump_spec, load_spec
from mbv3.tables import Latency
from mbv3.training import save_weights

from .conftest import Said, record, rows
from .driven import drive
from .test_find import ended


@pytest.fixture(scope="module")
def given(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A network of the tiny space with weights of its own, three quarters of its ms as a target."""
    where = tmp_path_factory.mktemp("init")
    space = load_space(folder / "tiny.yaml")
    spec = replace(space.spec(tuple(n - 1 for n in space.sizes), "large"), resolution=(48, 48))
    (where / "large.yaml").write_text(dump_spec(spec))
    save_weights(where / "large.safetensors", build(spec, 0).state_dict(), network="large")
    latency = Latency(LatencyTable.load(folder / "tiny.csv"))
    [full] = latency([replace(spec, resolution=(32, 32))])
    return {
        "target_ms": round(0.75 * full, 3), "device": str(folder / "tiny.csv"), "data": str(folder / "images"),
        "final_epochs": 2, "init": str(where / "large.safetensors"), "from_": str(where / "large.yaml"),
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(given: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run. Copy before you change anything in it."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("road") / "run"
    ended(find_events(out=out, **given))
    return out


def arguments(given: dict[str, Any], **changes: Any) -> list[str]:
    """As a command line; None leaves an option out."""
    values = {**given, **changes}
    pairs = [("--" + k.strip("_").replace("_", "-"), v) for k, v in values.items() if v is not None]
    return [str(x) for pair in pairs for x in pair]


def test_what_a_run_leaves(run: Path, given: dict[str, Any]) -> None:
    r: Any = record(run)
    assert (r["status"], r["exit"]) == ("done", 0)
    assert r["predicted_ms"] <= given["target_ms"] and r["measured_ms"] is None
    assert r["init"]["file"] == given["init"] and r["init"]["network"] == "large" and len(r["init"]["sha256"]) == 64
    assert r["accuracy"]["kind"] == "report" and 0 <= r["accuracy"]["value"] <= 100 and r["accuracy"]["error"] > 0
    assert "held-out images, answered once" in r["accuracy"]["note"]
    assert all({"name", "ms", "accuracy"} <= set(b) and b["ms"] <= given["target_ms"] for b in r["baselines"])
    assert {b["name"].split("@")[0] for b in r["baselines"]} >= {"uniform L1 slimming"}
    assert {c["name"] for c in r["comparison"]} >= {"found"}
    spec = load_spec(str(run / "mobilenetv3.yaml"))
    weights = load_file(run / "weights.safetensors")
    build(spec, 0).load_state_dict(weights)
    stages = {row["round"] for row in rows(run / "candidates.csv")}
    assert {"alike", "last"} <= stages
    left = {p.name for p in run.iterdir()}
    assert not [n for n in left if n.startswith(("road-", "pixels-"))]
    assert {"report.html", "mobilenetv3.onnx", "seed.yaml", "latency-table.csv"} <= left


def test_the_claims_hold(run: Path, mbv3: Callable[..., Said]) -> None:
    code, out, err = mbv3("verify", run)
    assert code == 0, out + err


def test_killed_and_resumed_it_is_the_same(run: Path, given: dict[str, Any], tmp_path: Path) -> None:
    args = [*arguments(given), "--out", str(tmp_path / "run")]
    # in the start, among what is compared, in the last training
    killed = drive(*args, fate="SIGKILL mbv3.training.loop:one_step:15")
    assert killed.code == -signal.SIGKILL, killed.err
    assert record(killed.path)["status"] == "running"
    again = drive("--resume", str(killed.path), fate="SIGKILL mbv3.tasks.classify:class_answers:1")
    assert again.code == -signal.SIGKILL, again.err
    done = drive("--resume", str(killed.path), "--json")
    assert done.code == 0, done.err
    mine, whole = json.loads(done.out), record(run)
    for name in ("accuracy", "baselines", "comparison", "init", "predicted_ms"):
        assert mine[name] == whole[name], name
    a, b = load_file(run / "weights.safetensors"), load_file(killed.path / "weights.safetensors")
    assert all(torch.equal(a[k], b[k]) for k in a)


def test_other_photos_or_weights_are_not_gone_on_with(
    given: dict[str, Any], tmp_path: Path, search: Callable[..., Said]
) -> None:
    mine = {**given, "init": str(tmp_path / "w.safetensors"), "data": str(tmp_path / "images")}
    shutil.copy(given["init"], mine["init"])
    shutil.copytree(given["data"], mine["data"])
    args = [*arguments(mine), "--out", str(tmp_path / "run")]
    killed = drive(*args, fate="SIGKILL mbv3.training.loop:one_step:15")
    assert killed.code == -signal.SIGKILL, killed.err
    first = next(Path(mine["data"]).rglob("*.png"))
    kept = first.read_bytes()
    second = sorted(Path(mine["data"]).rglob("*.png"))[-1]
    first.write_bytes(second.read_bytes())
    code, _, err = search("--resume", tmp_path / "run")
    assert code == 2 and "are not those that this run began with" in err
    first.write_bytes(kept)
    state = load_file(mine["init"])
    save_file({k: v + 1 for k, v in state.items()}, mine["init"])
    code, _, err = search("--resume", tmp_path / "run")
    assert code == 2 and "is not the file of weights that this run began with" in err


def test_netadapt_takes_the_same_road(
    given: dict[str, Any], tmp_path: Path, mbv3: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the road itself: the table of `mbv3 netadapt` is measured here."""
    import mbv3.runs.netadapt_run as module

    seen = []
    monkeypatch.setattr(module, "road_stages", lambda o, run: seen.append((o, run.record)) or iter(()))
    with pytest.raises(AttributeError, match="'NoneType'"):  # the stand-in gives no result
        mbv3("netadapt", given["from_"], "--target-ms", "0.1", "--data", given["data"], "--init", given["init"],
             "--out", tmp_path / "run")  # fmt: skip
    [(o, kept)] = seen
    assert (o.init, kept.init.network) == (given["init"], "large")
    assert "--from" not in kept.command and kept.command.startswith("mbv3 netadapt large --target-ms 0.1")


def test_without_weights_a_line_says_what_they_would_bring(folder: Path, tmp_path: Path) -> None:
    events = find_events(1.45, tmp_path / "run", device=str(folder / "tiny.csv"), space=str(folder / "tiny.yaml"),
                         data=str(folder / "images"))  # fmt: skip
    next(events)
    note: Any = next(events)
    assert "--init FILE --from NETWORK" in note.text and note.warning
    events.close()


# ---- the road: the fine-tuned start


def content(run: Path) -> dict[Path, bytes]:
    return {p: p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_another_target_begins_with_the_start_and_ends_as_a_run_of_its_own(
    run: Path, given: dict[str, Any], tmp_path: Path, search: Callable[..., Said], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    first, own, second = (tmp_path / name for name in ("first", "own", "second"))
    shutil.copytree(run, first)
    target = round(0.9 * given["target_ms"], 3)
    ended(find_events(out=own, **{**given, "target_ms": target}))
    before = content(first)
    module = import_module("mbv3.stages.tune")
    trained, began = module.trained, []

    def seen(name: str, *a: Any, **k: Any) -> Any:
        began.append(name)
        return trained(name, *a, **k)

    monkeypatch.setattr(module, "trained", seen)
    steps: list[int] = []
    one_step = module.fit
    monkeypatch.setattr(module, "fit", lambda *a, **k: steps.append(len(began)) or one_step(*a, **k))
    code, out, err = search("--resume-from", first, "--target-ms", target, "--out", second, "--json")
    assert code == 0, err
    two: Any = json.loads(out)
    assert began[0] == "start" and 1 not in steps  # asked for, and nothing of it trained
    assert two["taken_from"]["file"] == "start.safetensors" and two["taken_from"]["run"] == str(first)
    assert "start.safetensors is the fine-tuned start" in err
    alone: Any = record(own)
    for name in ("accuracy", "baselines", "comparison", "predicted_ms", "init"):
        assert two[name] == alone[name], name
    a, b = (load_file(run / "weights.safetensors") for run in (own, second))
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert content(first) == before
    # a run of other amounts takes the start as it is
    began.clear()
    steps.clear()
    longer = 1.5 * given["final_epochs"]
    code, _, err = search("--resume-from", first, "--target-ms", target, "--final-epochs", longer, "--out", own / "b")
    assert code == 0, err
    assert began[0] == "start" and 1 not in steps and steps
    # the options that the run was begun with may be given again, others not
    again = arguments(given, target_ms=target, final_epochs=None)
    code, _, err = search(*again, "--resume-from", first, "--resolution", "32", "--out", tmp_path / "no")
    assert code == 2 and "leave out --resolution" in err
    (first / "start.safetensors").unlink()
    code, _, err = search("--resume-from", first, "--target-ms", target, "--out", tmp_path / "no")
    assert code == 2 and "keeps no fine-tuned start (start.safetensors)" in err


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"init": None}, r"--from .*large.yaml: names the network of the weights; give them with --init"),
        ({"from_": None}, r"of which network are these weights\? Add --from SPEC"),
        ({"data": None}, r"fine-tuned on images; give them with --data"),
        ({"trials": 9, "seed_ratio": 2}, r"--trials, --seed-ratio: belongs to a search from nothing"),
        ({"max_params": 2e6}, r"--max-params: belongs to a search from nothing"),
        ({"from_": "mobilenet_v3_small"}, r"weights of another network(.|\n)*missing(.|\n)*not in this network"),
        ({"from_": "lraspp_m-v3-d8"}, r"is no classifier"),
        ({"init": "nowhere.pth"}, r"nowhere.pth: no such weights file"),
        ({"data": "nowhere"}, r"nowhere: no such data folder"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(
    given: dict[str, Any], tmp_path: Path, search: Callable[..., Said], changes: dict[str, Any], said: str
) -> None:
    code, _, err = search(*arguments(given, **changes), "--out", tmp_path / "run")
    assert code == 2
    assert re.search(said, err), err
    assert not (tmp_path / "run").exists()


def broken(path: Path, given: dict[str, Any], how: str) -> str:
    state = load_file(given["init"])
    file = path / f"{how}.safetensors"
    if how == "truncated":
        file.write_bytes(Path(given["init"]).read_bytes()[:2000])
    elif how == "short":
        file.write_bytes(Path(given["init"]).read_bytes()[:-100])
    elif how == "half":  # of a file of torch.save
        torch.save(state, file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif how == "zeros":
        save_file({k: torch.zeros_like(v) for k, v in state.items()}, file)
    elif how == "foreign":
        theirs = {f"network/layer_{i}/kernel": v.clone() for i, v in enumerate(state.values())}
        save_file({**theirs, "stem.conv.weight": state["stem.conv.weight"]}, file)
    elif how == "nan":
        save_file({k: v * float("nan") if v.is_floating_point() else v for k, v in state.items()}, file)
    elif how == "supernet":
        save_file({**state, "blocks.1.conv.depth_conv.conv.7to5_matrix": torch.eye(25)}, file)
    return str(file)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("truncated", r"truncated.safetensors: is cut short: it has 2,000 of [\d,]+ bytes; copy or download it again"),
        ("short", r"is cut short: it has [\d,]+ of [\d,]+ bytes"),
        ("half", r"half.safetensors: is cut short: the list of its parts, which stands at its end, is not in its"),
        ("zeros", r"no network can answer with(.|\n)*all of its \d+ kernels hold zeros only"),
        ("foreign", r"weights of another network(.|\n)*missing(.|\n)*not in this network: .*kernel"),
        ("nan", "no network can answer with"),
        ("supernet", "a supernet"),
    ],
)
def test_weights_that_cannot_be_used(
    given: dict[str, Any], tmp_path: Path, search: Callable[..., Said], how: str, said: str
) -> None:
    code, _, err = search(*arguments(given, init=broken(tmp_path, given, how)), "--out", tmp_path / "run")
    assert code == 2 and not (tmp_path / "run").exists()
    assert re.search(said, err), err


def test_a_picture_that_cannot_be_decoded_has_a_cure_that_there_is(
    given: dict[str, Any], tmp_path: Path, search: Callable[..., Said]
) -> None:
    shutil.copytree(given["data"], tmp_path / "images")
    next((tmp_path / "images").rglob("*.png")).write_bytes(b"no picture")
    code, _, err = search(*arguments(given, data=str(tmp_path / "images")), "--out", tmp_path / "run")
    assert code == 2 and "--skip" not in err
    assert re.search(r"images: 1 of \d+ images cannot be decoded; repair or remove them\n", err), err


def thin(path: Path) -> dict[str, str]:
    """A network whose sites all have the fewest channels, and its weights."""
    head = Classify(features=8, classes=2)
    spec = ArchSpec(name="thin", resolution=(48, 48), stem=Conv(k=3, out=8, nl="HS", s=2),
                    rows=(MBConv(k=3, exp=8, out=8, s=2),), tail=Conv(k=1, out=8, nl="HS"), head=head)  # fmt: skip
    (path / "thin.yaml").write_text(dump_spec(spec))
    save_weights(path / "thin.safetensors", build(spec, 0).state_dict(), network="thin")
    return {"init": str(path / "thin.safetensors"), "from_": str(path / "thin.yaml")}


def test_a_network_with_nothing_to_cut(tmp_path: Path, mbv3: Callable[..., Said]) -> None:
    network = thin(tmp_path)
    code, _, err = mbv3("netadapt", network["from_"], "--target-ms", "0.001", "--out", tmp_path / "run")
    assert (
        code == 2
        and "thin: has nothing to cut: no site has more than the fewest channels" in err
        and "Traceback" not in err
    )


def test_weights_of_a_known_network_are_told(
    tmp_path: Path, search: Callable[..., Said], given: dict[str, Any]
) -> None:
    spec: ArchSpec = load_spec("mobilenet_v3_small")
    save_weights(tmp_path / "small.safetensors", build(spec, 0).state_dict(), network="small")
    code, _, err = search(
        *arguments(given, init=str(tmp_path / "small.safetensors"), from_="mobilenet_v2"), "--out", tmp_path / "run"
    )
    assert code == 2 and "they fit mobilenet_v3_small: --from mobilenet_v3_small" in err


def test_a_target_that_nothing_reaches(given: dict[str, Any], tmp_path: Path, search: Callable[..., Said]) -> None:
    code, _, err = search(*arguments(given, target_ms=0.001), "--out", tmp_path / "run")
    assert code == 3 and "cannot be met" in err
    r: Any = record(tmp_path / "run")
    assert r["status"] == "unreachable" and 0.001 < r["range_ms"][0] < r["range_ms"][1]


def test_a_target_that_the_start_meets(given: dict[str, Any], tmp_path: Path, search: Callable[..., Said]) -> None:
    code, out, err = search(*arguments(given, target_ms=1000), "--out", tmp_path / "run", "--json")
    assert code == 0, err
    r = json.loads(out)
    assert r["accuracy"]["value"] is not None
    assert load_spec(str(tmp_path / "run" / "mobilenetv3.yaml")).rows == load_spec(given["from_"]).rows
