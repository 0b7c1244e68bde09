"""What fine-tuning on masks brings by which recipe: one line of JSON a training.

python scripts/bench_dense.py --data DIR --init FILE --px 180x240 [--only default 'norms held']

DIR is a data set of `mbv3 train --task segment` with a validation and a test part; FILE has weights of
MobileNetV3-Small. Every setting learns the same epochs; settings are compared by the validation images, and the test
images are answered too. Every training is appended to --out when it ends, and one that is found there is not run
again. `default` is what `mbv3 train --init` takes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from bench_finetune import device_name
from json_lines import append, lines_of, short_commit

from mbv3.events import result
from mbv3.export import read_any_weights
from mbv3.nn import build
from mbv3.progress import drain
from mbv3.spec import load_spec, with_head
from mbv3.stages import ready
from mbv3.tasks import TASKS, Source, shaped
from mbv3.training import adopt, fit, recipe_for

ROOT = Path(__file__).resolve().parents[1]
NETWORK = "mobilenet_v3_small"
KEY = ("data", "px", "epochs", "seed", "setting", "init")
SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "default": {},
    "cross-entropy alone": {"dice": 0.0},
    "dice 2": {"dice": 2.0},
    "a slower body": {"body_lr": 0.4, "layer_decay": 0.9, "head_first": 0.1},
    "double rate": {"lr": 4e-3},
    "body .4": {"body_lr": 0.4},
    "norms held": {"hold_norms": True, "recalibrate": 0},
    "batch 4": {"batch": 4},
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", type=Path, required=True)
    p.add_argument("--init", type=Path, required=True)
    p.add_argument("--px", required=True, help="height x width")
    p.add_argument("--epochs", type=float, default=15)
    p.add_argument("--only", nargs="*", choices=SETTINGS)
    p.add_argument("--seeds", type=int, nargs="+", default=[0])
    p.add_argument("--threads", type=int, default=1)
    p.add_argument("--out", type=Path, default=ROOT / "results" / "dense.jsonl")
    o = p.parse_args()
    torch.set_num_threads(o.threads)
    commit, task = short_commit(), TASKS["segment"]
    asked = shaped(load_spec(NETWORK), task, resolution=o.px, head=None, output_stride=None, unstride=0, dropout=None)
    found = read_any_weights(o.init, asked)
    with tempfile.TemporaryDirectory() as store:
        data = result(task.load(found.spec, Source(path=o.data, augment=task.augments[-1], store=Path(store))))
        assert data.test is not None, "no test part"
        spec = with_head(found.spec, found.spec.head, data.outputs)
        for seed in o.seeds:
            for name in o.only or SETTINGS:
                line: dict[str, Any] = {
                    "data": o.data.name, "px": o.px, "epochs": o.epochs, "seed": seed,
                    "setting": name, "init": o.init.name, "network": NETWORK,
                }  # fmt: skip
                if any(all(old[k] == line[k] for k in KEY) for old in lines_of(o.out)):
                    continue
                recipe = recipe_for(
                    task.finetune, len(data.train), spec.resolution, seed=seed, epochs=o.epochs, **SETTINGS[name]
                )
                net = build(spec, seed)
                adopt(net, found.state, str(o.init))
                began = time.process_time()
                drain(fit(net, data.train, recipe, objective=data.objective(recipe)))
                ready(net, data.train, recipe)
                line |= {"changes": dict(SETTINGS[name]), "steps": recipe.steps, "batch": recipe.batch,
                         "cpu_s": round(time.process_time() - began, 1)}  # fmt: skip
                for part, images in (("validation", data.validation), ("test", data.test)):
                    a = data.work.answers(net, images, spec.resolution)
                    line |= {part: round(a.score, 2), f"{part}_error": round(a.error, 2), f"{part}_n": len(a)}
                append(o.out, line | {"device": device_name(), "torch": torch.__version__, "commit": commit})


if __name__ == "__main__":
    main()
