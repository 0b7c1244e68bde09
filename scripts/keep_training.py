"""Keep what a finished training showed: its run.json, log, curve and network; not its contact sheet, whose images are
somebody's.

python scripts/keep_training.py RUN NAME [COMMIT]         writes results/NAME.{json,log,yaml}, results/NAME-curve.png
python scripts/keep_training.py RUN NAME.jsonl [COMMIT]   adds a line to results/NAME.jsonl: one of several seeds
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from json_lines import append, lines_of, short_commit

from mbv3.record import TrainRecord, as_json, load_as

ROOT = Path(__file__).resolve().parents[1]
# of one of several seeds
LINE = ("command", "network", "judged_on", "n", "metrics", "by_class", "recipe", "total_s", "versions", "hashes",
        "commit")  # fmt: skip
# folders of one machine; they say nothing elsewhere
ELSEWHERE = re.compile(r"(?<![\w.])/\S*?([^/\s]+)(?=[\s;,:]|$)")


def short(value: object) -> object:
    if isinstance(value, str):
        return ELSEWHERE.sub(r"\1", value)
    if isinstance(value, dict):
        return {k: short(v) for k, v in value.items()}
    return [short(v) for v in value] if isinstance(value, list) else value


def main() -> None:
    run, name = Path(sys.argv[1]), sys.argv[2]
    record = load_as(run, TrainRecord)
    kept = {**as_json(record), "commit": sys.argv[3] if len(sys.argv) > 3 else short_commit(), "runs": 1}
    out = ROOT / "results"
    if name.endswith(".jsonl"):
        if any(line["hashes"] == kept["hashes"] for line in lines_of(out / name)):
            sys.exit(f"{run}: its weights are in results/{name} already")
        return append(out / name, {k: short(kept[k]) for k in LINE if k in kept} | {"seed": kept["args"]["seed"]})
    (out / f"{name}.json").write_text(json.dumps(short(kept), indent=1) + "\n", encoding="utf-8")
    log = (run / "log.txt").read_text("utf-8").splitlines()
    (out / f"{name}.log").write_text("\n".join(str(short(line)) for line in log) + "\n", encoding="utf-8")
    (out / f"{name}.yaml").write_text((run / "network.yaml").read_text("utf-8"), encoding="utf-8")
    (out / f"{name}-curve.png").write_bytes((run / "curve.png").read_bytes())
    print(json.dumps({k: kept.get(k) for k in ("command", "metrics", "n", "judged_on", "total_s")}))


if __name__ == "__main__":
    main()
