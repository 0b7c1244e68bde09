"""Speed of the search itself: 8,000 trials of the RNN controller, every sampler's overhead, a million latencies.

    python scripts/bench_search.py TABLE.csv        (a table of the mnasnet-imagenet space, from: mbv3 latency build)

Writes results/search_speed.json.
"""

from __future__ import annotations

import json
import platform
import sys
import time
from pathlib import Path

import numpy as np
import torch

from mbv3.accuracy import imagenet_space
from mbv3.latency import LatencyTable
from mbv3.search import SAMPLERS, Search, make_reward
from mbv3.space import Genome, load_space, tabulate
from mbv3.spec import LayerKey

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    torch.set_num_threads(1)
    space = load_space("mnasnet-imagenet")
    table = LatencyTable.load(sys.argv[1])
    c = table.calibration

    def layer_ms(key: LayerKey) -> float:
        return c.layer_ms(key, table.hot_ms(key))

    additive = tabulate(space, layer_ms)
    top1 = imagenet_space(space)

    def latency_ms(genome: Genome) -> float:
        return float(additive(np.array([genome]))[0]) + c.c

    def accuracy(genome: Genome) -> float:
        return float(top1(np.array([genome]))[0])

    target = 6.25
    result: dict[str, object] = {
        "command": "python scripts/bench_search.py TABLE.csv",
        "device": table.fingerprint.cpu, "cores": table.fingerprint.cores, "python": platform.python_version(),
        "target_ms": target, "reward": "mnasnet-soft, w -0.07", "samplers": {},
    }  # fmt: skip
    genomes = space.sample(np.random.default_rng(0), 1_000_000)
    times = []
    for _ in range(5):
        t = time.perf_counter()
        additive(genomes)
        times.append(time.perf_counter() - t)
    result["million_latencies_s"] = [round(t, 3) for t in times]
    for name in SAMPLERS:
        n = {"rnn": 8000, "evolution": 8000, "random": 8000, "gp": 20, "surrogate": 300}.get(name, 1000)
        search = Search(
            space, accuracy, latency_ms, make_reward("mnasnet-soft", target, -0.07), sampler=name, seed=0, trials=n
        )
        t = time.perf_counter()
        trials = list(search.run(n))
        took = time.perf_counter() - t
        t = time.perf_counter()
        for trial in trials:
            accuracy(trial.genome), latency_ms(trial.genome)
        scoring = time.perf_counter() - t
        good = [x for x in trials if x.state == "complete"]
        near = [x.accuracy for x in good if 0.8 * target <= x.latency_ms <= 1.02 * target]
        assert isinstance(result["samplers"], dict)
        result["samplers"][name] = {
            "trials": n, "seconds": round(took, 1), "overhead_ms_per_trial": round((took - scoring) / n * 1e3, 2),
            "best_reward": round(max(x.reward for x in good), 4),
            "best_top1_near_target": round(max(near, default=float("nan")), 2),
            "mean_reward_last_500": round(float(np.mean([x.reward for x in good[-500:]])), 4),
        }  # fmt: skip
        print(name, result["samplers"][name], flush=True)
    (ROOT / "results/search_speed.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print("million latencies, s:", result["million_latencies_s"])


if __name__ == "__main__":
    main()
