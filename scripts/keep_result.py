"""Keep what a finished run showed: the figures of its run.json, its table's trust report, the network.

python scripts/keep_result.py RUN NAME [COMMIT]     writes results/NAME.json and results/NAME.yaml
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from mbv3.latency import LatencyTable

ROOT = Path(__file__).resolve().parents[1]
FIELDS = (
    "command", "started", "target_ms", "measured_ms", "measured_error_ms", "predicted_ms", "reference",
    "reference_ms", "raw_reference_ms", "seed_ms", "accuracy", "netadapt_accuracy", "params", "madds", "range_ms",
    "scale", "plan", "comparison", "notes", "references", "stages", "total_s", "versions", "device", "seeds",
    "hashes", "task", "head", "classes", "output_stride", "status", "exit",
)  # fmt: skip


def main() -> None:
    run, name = Path(sys.argv[1]), sys.argv[2]
    record = json.loads((run / "run.json").read_text("utf-8"))
    kept = {k: record[k] for k in FIELDS if k in record}
    # folders of one machine say nothing elsewhere
    kept["command"] = re.sub(r"(?<=\s)/\S*?([^/\s]+/[^/\s]+)(?=\s|$)", r"\1", kept["command"])
    kept.get("plan", {}).pop("rivals", None)
    kept["table_report"] = LatencyTable.load(run / "latency-table.csv").report
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    kept["commit"] = sys.argv[3] if len(sys.argv) > 3 else commit.stdout.strip()
    kept["n"] = 1
    (ROOT / f"results/{name}.json").write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    (ROOT / f"results/{name}.yaml").write_text((run / "mobilenetv3.yaml").read_text("utf-8"), encoding="utf-8")
    print(json.dumps({k: kept.get(k) for k in ("command", "measured_ms", "target_ms", "params", "total_s")}))


if __name__ == "__main__":
    main()
