"""Keep what a finished run showed: the figures of its run.json, its table's trust report, the network.

python scripts/keep_result.py RUN NAME [COMMIT]     writes results/NAME.json and results/NAME.yaml
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

from json_lines import short_commit

from mbv3.latency import LatencyTable
from mbv3.record import SearchRecord, as_json, load_as

ROOT = Path(__file__).resolve().parents[1]
# the tool's own state, and what the network's YAML holds already
LEFT_OUT = {"format", "version", "args", "spec", "rows_ms", "correction", "estimated_layers", "network", "error"}
FOLDERS = re.compile(r"(?<=\s)/\S*?([^/\s]+/[^/\s]+)(?=\s|$)")  # of one machine; they say nothing elsewhere


def main() -> None:
    run, name = Path(sys.argv[1]), sys.argv[2]
    record = load_as(run, SearchRecord)
    plan = {k: v for k, v in record.plan.items() if k != "rivals"}
    init = record.init and replace(record.init, file=Path(record.init.file).name)
    short = replace(record, command=FOLDERS.sub(r"\1", record.command), plan=plan, init=init)
    kept = {
        **{k: v for k, v in as_json(short).items() if k not in LEFT_OUT},
        "table_report": LatencyTable.load(run / "latency-table.csv").report,
        "commit": sys.argv[3] if len(sys.argv) > 3 else short_commit(),
        "n": 1,
    }
    (ROOT / f"results/{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    (ROOT / f"results/{name}.yaml").write_text((run / "mobilenetv3.yaml").read_text("utf-8"), encoding="utf-8")
    print(json.dumps({k: kept.get(k) for k in ("command", "measured_ms", "target_ms", "params", "total_s")}))


if __name__ == "__main__":
    main()
