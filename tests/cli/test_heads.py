"""`mbv3 show` on segmentation and detection networks, and what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from mbv3.spec import dump_spec, head_names, load_spec, parse_spec

from .conftest import Said

Command = Callable[..., Said]
DOC = Path(__file__).parents[2] / "docs" / "heads.md"


def test_a_head_shows_its_inputs_and_its_auxiliary_parameters(mbv3: Command) -> None:
    code, out, err = mbv3("show", "deeplabv3plus_m-v2-d8")
    assert (code, err) == (0, "")
    head, total, aux = out.splitlines()[-3:]
    assert head.split()[:4] == ["head", "64x128x320", "128x256x24", "deeplabv3plus"]
    assert total.startswith("15,017,795 parameters, ")
    assert aux == "226,579 parameters more while training, of the auxiliary head"
    value = json.loads(mbv3("show", "deeplabv3plus_m-v2-d8", "--json")[1])
    assert value["aux_params"] == 226_579
    assert value["rows"][-1]["inputs"] == [[320, 64, 128], [24, 128, 256]]
    assert [r["dilation"] for r in value["rows"] if "dilation" in r] == [2, 2, 4, 4]


@pytest.mark.parametrize("head", head_names())
def test_any_head_on_a_network(mbv3: Command, head: str) -> None:
    code, out, _ = mbv3("show", "mobilenet_v3_small", "--head", head, "--classes", 3, "--json")
    value = json.loads(out)
    assert code == 0 and value["rows"][-1]["path"] == "head"


def test_classes_alone(mbv3: Command) -> None:
    [large, small] = (json.loads(mbv3("show", "fcn_m-v2-d8", "--json", *more)[1]) for more in ((), ("--classes", 2)))
    assert large["params"] - small["params"] == 17 * 513 and large["aux_params"] - small["aux_params"] == 17 * 257


def test_a_network_under_a_head_is_written_for_every_other_verb(mbv3: Command, tmp_path: Path) -> None:
    file = tmp_path / "net.yaml"
    asked = ("mobilenet_v3_small", "--head", "lraspp-torchvision", "--classes", 3, "--output-stride", 16)
    code, out, _ = mbv3("show", *asked, "--resolution", "90x120", "--out", file)
    assert code == 0 and parse_spec(file.read_text()).resolution == (90, 120)
    assert mbv3("show", file)[1].splitlines()[1:] == out.splitlines()[1:]
    code, _, err = mbv3("show", *asked, "--out", file)
    assert code == 2 and "already exists, and nothing is overwritten" in err
    code, _, err = mbv3("latency", "measure", "--like", "t.csv", "--head", "lraspp", "--resolution", "90")
    assert code == 2 and "--head, --resolution: only for a SPEC" in err
    code, _, err = mbv3("latency", "measure", "mobilenet_v3_small", "--resolution", "0")
    assert code == 2 and "--resolution must be a side" in err


def test_output_stride(mbv3: Command) -> None:
    _, out, _ = mbv3("show", "mobilenet_v3_large", "--output-stride", 8)
    rows = {line.split()[0]: line.split() for line in out.splitlines()[2:]}
    assert rows["tail"][1] == "28x28x160" and rows["rows[6]"][8:10] == ["1", "d2"]
    assert "5,483,032 parameters" in out


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--output-stride", "24"), "output stride: small cannot take 24; its rows end at strides 2, 4"),
        (("--output-stride", "eight"), "invalid int value: 'eight'"),
        (("--head", "unet"), "head: must be one of classify, lraspp"),
        (("--head", "raspp", "--classes", "0"), "head: classes must be a whole number from 1 (got 0)"),
        (("--head", "ssdlite"), "head ssdlite: needs a map at stride 32; the strides of small end at 4; take a deeper"),
    ],
)
def test_refused(mbv3: Command, spec: Path, args: tuple[str, ...], words: str) -> None:
    code, out, err = mbv3("show", spec, *args)
    assert (code, out) == (2, "") and words in err and "Traceback" not in err


def test_a_file_with_faults_in_its_head(mbv3: Command, tmp_path: Path) -> None:
    file = tmp_path / "bad.yaml"
    text = dump_spec(load_spec("lraspp_mobilenet_v3_large"))
    file.write_text(text.replace("classes: 21", "classes: 0").replace("row: 3}", "row: 30}"))
    code, out, err = mbv3("show", file)
    assert (code, out) == (2, "")
    assert "2 faults" in err and "head.classes" in err and "head.low[0].row: the backbone has the rows 0 to 14" in err
    assert "Traceback" not in err


def test_the_page_shows_what_the_commands_print(mbv3: Command) -> None:
    """Each `$ mbv3 ...` of docs/heads.md, with `| tail -N`."""
    found = re.findall(r"^\$ mbv3 (.*?)(?: \| tail -(\d+))?\n(.*?)^```", DOC.read_text("utf-8"), re.M | re.S)
    assert len(found) == 4
    for command, tail, shown in found:
        code, out, err = mbv3(*command.split())
        lines = (out if code == 0 else err).splitlines()
        assert lines[-int(tail or len(lines)) :] == shown.splitlines()
