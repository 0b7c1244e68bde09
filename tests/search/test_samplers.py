"""One contract for all samplers: in the space, no network twice, a function of (seed, history), within a hard limit,
unharmed by NaN, at an end where the space is, better than luck."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from optuna.samplers import TPESampler
from optuna.trial import TrialState

from mbv3.errors import BadInput
from mbv3.search import (
    SAMPLERS,
    Aim,
    EvolutionSampler,
    Search,
    Trial,
    make_reward,
    make_sampler,
    register_sampler,
)
from mbv3.search.controller import Controller
from mbv3.search.proposer import scaled
from mbv3.search.surrogate import _order
from mbv3.space import Genome, SearchSpace, load_space, parse_space

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SPACE = parse_space("""\
format: mbv3-space/1
name: six
input: {resolution: 32}
stem: {k: 3, out: 8, nl: HS, s: 2}
blocks:
  - {name: a, s: 1, out: 8, e: [2, 3, 4], k: [3, 5, 7]}
  - {name: b, s: 2, out: 16, e: [2, 3, 4, 6], k: [3, 5, 7], l: [1, 2, 3], se: [0, 1]}
  - {name: c, s: 2, out: 16, e: [2, 3, 4, 6], k: [3, 5, 7], l: [1, 2, 3], se: [0, 1]}
head: {features: 16, classes: 4}
""")
REWARD = make_reward("mnasnet-soft", 10.0, -0.07)
_RNG = np.random.default_rng(0)
_SINGLE = [_RNG.normal(0, 2, n) for n in SPACE.sizes]
_PAIR = [_RNG.normal(0, 1, (a, b)) for a, b in itertools.pairwise(SPACE.sizes)]

Score = Callable[[Genome], float]
LIMIT_MS = 9.0  # a quarter of the space is within it
COSTLY = {"gp": 9, "tpe": 36, "nsga2": 60, "surrogate": 36}  # trials of samplers that take long; others 160


def accuracy(genome: Genome) -> float:
    """Singles and neighbouring pairs, in percent."""
    singles = sum(float(t[g]) for t, g in zip(_SINGLE, genome, strict=True))
    pairs = zip(_PAIR, itertools.pairwise(genome), strict=True)
    return 60 + singles + sum(float(t[a, b]) for t, (a, b) in pairs)


def latency(genome: Genome) -> float:
    return 5.0 + 0.5 * sum(genome)


def broken(genome: Genome) -> float:
    """NaN for every genome of first choice 2, among them the best ones by far before."""
    return math.nan if genome[0] == 2 or sum(genome) % 5 == 0 else accuracy(genome)


def trials_of(name: str) -> int:
    return COSTLY.get(name, 160)


def search(
    name: str, score: Score = accuracy, seed: int = 0, history: Sequence[Trial] = (), space: SearchSpace = SPACE,
    hard: bool = False,
) -> Search:  # fmt: skip
    reward = make_reward("limit", LIMIT_MS, 0.0) if hard else REWARD
    target = LIMIT_MS if hard else 10.0
    return Search(
        space, score, latency, reward, sampler=name, seed=seed, history=history, target_ms=target, hard=hard,
        trials=trials_of(name),
    )  # fmt: skip


def told(trials: Sequence[Trial]) -> list[str]:
    """Trials as text: NaN equals NaN there."""
    return [repr(t) for t in trials]


@pytest.fixture(params=[*SAMPLERS, "partial"])
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    """Every registered sampler, and one with other arguments."""
    if request.param == "partial":
        register_sampler("partial", partial(EvolutionSampler, population=12, sample=4))
    yield request.param
    SAMPLERS.pop("partial", None)


class TestEverySampler:
    def test_genomes_stay_in_the_space_once_each_and_numbers_count_up(self, name: str) -> None:
        n = trials_of(name)
        trials = list(search(name).run(n))
        assert [t.number for t in trials] == list(range(n))
        for t in trials:
            assert SPACE.check(t.genome) == t.genome and all(type(g) is int for g in t.genome)
            assert t.state == "complete"
            assert (t.accuracy, t.latency_ms) == (accuracy(t.genome), latency(t.genome))
            assert t.reward == REWARD(t.accuracy / 100, t.latency_ms)
        assert len({t.genome for t in trials}) == n

    def test_the_seed_decides(self, name: str) -> None:
        n = min(60, trials_of(name))
        one, again, other = (told(list(search(name, seed=s).run(n))) for s in (4, 4, 5))
        assert one == again != other

    @pytest.mark.parametrize("score", [accuracy, broken])
    def test_a_resumed_run_goes_on_as_if_it_had_never_stopped(self, name: str, score: Score) -> None:
        n = trials_of(name)
        whole = told(list(search(name, score).run(n)))
        for stop in (n // 5 + 1, n * 2 // 3):  # in the middle of a batch and of a generation
            first = list(search(name, score).run(stop))
            assert told(first) == whole[:stop]
            rest = list(search(name, score, history=first).run(n))
            assert told(rest) == whole[stop:]

    def test_history_is_not_scored_again(self, name: str) -> None:
        first = list(search(name).run(15))
        asked: list[Genome] = []

        def count(genome: Genome) -> float:
            asked.append(genome)
            return accuracy(genome)

        more = list(search(name, count, history=first).run(24))
        assert len(more) == 9 and len(asked) == len(set(asked)) == 9
        assert not set(asked) & {t.genome for t in first}

    def test_nothing_beyond_a_hard_limit_is_proposed(self, name: str) -> None:
        trials = list(search(name, hard=True).run(trials_of(name)))
        assert len(trials) == trials_of(name)
        assert all(t.latency_ms <= LIMIT_MS for t in trials)  # three quarters of random draws are beyond it
        assert len({t.genome for t in trials}) == len(trials)

    def test_the_share_within_the_target_rises_under_a_reward_that_asks_for_it(self, name: str) -> None:
        if name == "random":
            pytest.skip("the yardstick itself")
        reward = make_reward("tunas", 8.0, -4.0)
        n = trials_of(name)
        s = Search(SPACE, accuracy, latency, reward, sampler=name, target_ms=8.0, trials=n, seed=2)
        every = [latency(g) for g in itertools.product(*map(range, SPACE.sizes))]
        trials = list(s.run(n))
        away = [abs(t.latency_ms - 8.0) for t in trials]
        assert np.mean(away[n // 2 :]) < np.mean([abs(ms - 8.0) for ms in every]) - 0.2

    def test_fixed_genes_stay_and_a_small_space_comes_to_its_end(self, name: str) -> None:
        few = parse_space(FEW)
        assert few.size == 12
        s = Search(few, accuracy_of(few), latency, REWARD, sampler=name, target_ms=10.0, trials=40)
        trials = list(s.run(40))
        assert s.exhausted and len(trials) == len({t.genome for t in trials}) == 12
        s = Search(
            few, accuracy_of(few), latency, make_reward("limit", 6.0, 0.0), sampler=name, target_ms=6.0, hard=True,
            trials=40,
        )  # fmt: skip
        within = [g for g in itertools.product(*map(range, few.sizes)) if latency(g) <= 6.0]
        assert sorted(t.genome for t in s.run(40)) == sorted(within) and s.exhausted and 0 < len(within) < 12
        assert {row.k for t in trials for row in few.spec(t.genome).rows} == {3}  # no gene: fixed

    def test_a_limit_that_nothing_meets_ends_the_search(self, name: str) -> None:
        reward = make_reward("limit", 4.5, 0.0)
        s = Search(SPACE, accuracy, latency, reward, sampler=name, target_ms=4.5, hard=True, trials=20)
        assert list(s.run(20)) == [] and s.exhausted

    def test_nan_fails_and_the_run_goes_on(self, name: str) -> None:
        n = trials_of(name)
        trials = list(search(name, broken).run(n))
        assert len(trials) == n
        failed = {t.number for t in trials if t.state == "failed"}
        assert failed and failed == {t.number for t in trials if math.isnan(broken(t.genome))}
        assert all(math.isnan(trials[i].reward) for i in failed)

    @pytest.mark.parametrize("hard", [False, True])
    def test_networks_that_all_score_alike_do_no_harm(self, name: str, hard: bool) -> None:
        n = trials_of(name) // 2
        alike = make_reward("limit", LIMIT_MS if hard else 1e9, 0.0)
        s = Search(
            SPACE,
            lambda g: 70.0,
            latency,
            alike,
            sampler=name,
            target_ms=LIMIT_MS if hard else 1e9,
            hard=hard,
            trials=n,
        )
        trials = list(s.run(n))
        assert len({t.genome for t in trials}) == n and {t.reward for t in trials} == {0.7}

    def test_a_search_where_nearly_all_fails_goes_on(self, name: str) -> None:
        n = trials_of(name) // 2
        trials = list(search(name, lambda g: accuracy(g) if sum(g) == 12 else math.nan).run(n))
        assert len({t.genome for t in trials}) == n

    def test_it_ends_better_than_it_began_at_random(self, name: str) -> None:
        if name == "random":
            pytest.skip("the yardstick itself")
        every = np.array([accuracy(g) for g in itertools.product(*(range(n) for n in SPACE.sizes))])
        n = {"rnn": 400, "gp": 24, "tpe": 90, "surrogate": 60}.get(name, 220)
        s = Search(SPACE, accuracy, lambda g: 10.0, REWARD, sampler=name, seed=1, target_ms=10.0, trials=n)
        trials = list(s.run(n))
        last = np.array([t.accuracy for t in trials[-n // 4 :]])
        assert last.mean() > every.mean() + 4 * every.std() / len(last) ** 0.5  # 4 sigma of as many random ones
        assert max(t.accuracy for t in trials) > np.quantile(every, 0.98)


FEW = """\
format: mbv3-space/1
name: few
input: {resolution: 32}
stem: {k: 3, out: 8, nl: HS, s: 2}
blocks:
  - {name: a, s: 1, out: 8, e: [2, 3], k: [3], se: [0, 1]}
  - {name: b, s: 2, out: 16, e: [2, 3, 4], k: 3}
head: {features: 16, classes: 4}
"""


def accuracy_of(space: SearchSpace) -> Score:
    return lambda genome: 60.0 + sum((i + 1) * g for i, g in enumerate(genome))


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(BadInput, match=r"^--sampler must be one of surrogate, rnn, .* \(got 'ppo'\)$"):
        search("ppo")


def test_run_goes_on_until_there_are_so_many() -> None:
    s = search("random")
    assert len(list(s.run(7))) == 7 and list(s.run(7)) == [] and len(list(s.run(9))) == 2


def test_scores_of_many_are_the_scores_of_each() -> None:
    class Latency:
        def __call__(self, genome: Genome) -> float:
            return latency(genome)

        def many(self, genomes: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
            return 5.0 + 0.5 * genomes.sum(1)

    def accuracies(genomes: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        return np.array([accuracy(tuple(g)) for g in genomes.tolist()])

    def runs(history: Sequence[Trial], **more: object) -> list[str]:
        s = Search(
            SPACE, accuracy, Latency(), REWARD, sampler="evolution", target_ms=10.0, history=history,
            **more,  # type: ignore[arg-type]
        )  # fmt: skip
        return told(list(s.run(90)))

    whole = runs((), accuracies=accuracies)
    assert whole == runs(())
    first = list(Search(SPACE, accuracy, Latency(), REWARD, sampler="evolution", target_ms=10.0).run(33))
    assert told(first) + runs(first, accuracies=accuracies) == whole


def test_first_networks_lie_near_the_target() -> None:
    """What no sampler should waste: its first networks are not plain random ones."""
    for name in ("surrogate", "rnn", "evolution", "nsga2", "tpe", "gp"):
        began = [t.latency_ms for s in range(4) for t in search(name, seed=s, hard=True).run(5)]
        plain = [t.latency_ms for s in range(4) for t in search("random", seed=s, hard=True).run(5)]
        assert np.mean(began) > np.mean(plain), name


# -- what NaN may not teach


def test_evolution_never_takes_a_failed_parent() -> None:
    s = search("evolution", broken)
    trials = list(s.run(160))
    drawn = {t.genome for t in trials if t.state == "complete"}
    assert set(map(tuple, s.sampler.genomes.tolist())) <= drawn < {t.genome for t in trials}
    assert np.isfinite(s.sampler.rewards).all()


def test_the_population_of_evolution_grows_with_the_budget() -> None:
    populations = []
    for trials in (40, 300, 4000):
        sampler = make_sampler("evolution", SPACE, 0)
        assert isinstance(sampler, EvolutionSampler)
        sampler.open(Aim(trials=trials))
        populations.append(sampler.population)
    assert populations == [10, 16, 100]


def test_the_controller_is_taught_every_trial_but_the_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    taught: list[tuple[Genome, ...]] = []

    def spy(self: Controller, genomes: np.ndarray, advantages: np.ndarray, rng: object) -> None:  # type: ignore[type-arg]
        assert len(advantages) == len(genomes) and np.isfinite(advantages).all()
        taught.append(tuple(map(tuple, genomes.tolist())))

    monkeypatch.setattr(Controller, "update", spy)
    s = search("rnn", broken)
    trials = list(s.run(61))
    ends = [*range(4, 53, 4), 57]  # whole batches
    good = [tuple(t.genome for t in trials[:end] if t.state == "complete") for end in ends]
    assert taught == list(dict.fromkeys(good)) and 10 < len(taught[-1]) < 57  # a batch of failures teaches nothing


def test_a_long_history_is_taught_by_its_best_and_its_latest() -> None:
    sampler = make_sampler("rnn", SPACE, 0)
    sampler.open(Aim())
    genomes = list(itertools.islice(itertools.product(*map(range, SPACE.sizes)), 50))
    rewards = [float((7 * i) % 50) for i in range(50)]
    sampler.tell(genomes, rewards)
    chosen, advantages = sampler.instructive(50, 20)
    want = {g for g, r in zip(genomes, rewards, strict=True) if r >= 40} | set(genomes[40:])
    assert set(map(tuple, chosen.tolist())) == want and len(chosen) == len(want)
    assert advantages.mean() == pytest.approx(0, abs=1e-9) and advantages.std() == pytest.approx(1)
    value = dict(zip(map(tuple, chosen.tolist()), advantages, strict=True))
    ranked = sorted(want, key=lambda g: rewards[genomes.index(g)])
    assert all(value[a] <= value[b] for a, b in itertools.pairwise(ranked))


def test_very_bad_rewards_do_not_hide_the_differences_of_good_ones() -> None:
    good = np.linspace(0.6, 0.7, 20)
    plain, beside = scaled(good), scaled(np.append(good, -1e9))
    assert np.ptp(beside[:-1]) > 0.5 * np.ptp(plain)
    np.testing.assert_array_equal(scaled(np.full(5, 0.7)), np.zeros(5))


def test_of_two_networks_within_a_limit_the_slower_is_preferred() -> None:
    s = search("rnn", hard=True)
    genomes = np.random.default_rng(0).integers(0, SPACE.sizes, (400, len(SPACE.sizes)))
    s.sampler.seen.add(tuple(genomes[0].tolist()))
    slower = s.sampler.slower(genomes)
    new = {g for g in map(tuple, genomes.tolist()) if latency(g) <= LIMIT_MS} - s.sampler.seen
    assert len(slower) == len(new) // 2 and set(map(tuple, slower.tolist())) < new
    assert np.mean([latency(tuple(g)) for g in slower.tolist()]) > np.mean([latency(g) for g in new]) + 0.1
    free = search("rnn").sampler
    assert free.slower(genomes) is genomes


def test_an_object_of_optuna_is_a_sampler_too() -> None:
    s = Search(SPACE, accuracy, latency, REWARD, sampler=TPESampler(seed=3))
    trials = list(s.run(30))
    assert s.sampler_name == "TPESampler" and len({t.genome for t in trials}) == 30
    assert s.study is not None
    assert len([t for t in s.study.get_trials() if t.state == TrialState.COMPLETE]) == 30


# -- true accuracies


def nas_bench_macro() -> tuple[SearchSpace, dict[Genome, float]]:
    """The space and the true accuracy of its every network."""
    with (SHARED / "nas_bench_macro_cifar10.csv").open(encoding="utf-8") as f:
        truth = {tuple(int(c) for c in r["arch"]): float(r["mean_acc"]) for r in csv.DictReader(f)}
    return load_space("nas-bench-macro"), truth


@pytest.mark.skipif(not (SHARED / "nas_bench_macro_cifar10.csv").exists(), reason="../shared/data is absent")
def test_evolution_finds_the_top_of_nas_bench_macro() -> None:
    space, truth = nas_bench_macro()
    assert len(truth) == space.size == 3**8
    every = np.array(list(truth.values()))
    for seed in (0, 1):
        s = Search(
            space, truth.__getitem__, lambda g: 10.0, REWARD, sampler="evolution", seed=seed, target_ms=10.0, trials=300
        )
        found = np.array([t.accuracy for t in s.run(300)])
        assert found.max() > np.quantile(every, 0.99)
        # luck finds the top 1 % in 300 draws too; it does not stay near it, where nothing is drawn twice
        assert np.median(found[-100:]) > np.quantile(every, 0.8)


@pytest.mark.skipif(not (SHARED / "nas_bench_macro_cifar10.csv").exists(), reason="../shared/data is absent")
def test_evolution_needs_few_networks_of_nas_bench_macro() -> None:
    space, truth = nas_bench_macro()
    best = np.quantile(list(truth.values()), 0.998)  # random draws need 350 in the median, populations alone 60
    needed = []
    for seed in range(9):
        s = Search(space, truth.__getitem__, lambda g: 10.0, REWARD, sampler="evolution", seed=seed, trials=300)
        needed.append(next(i for i, t in enumerate(s.run(300)) if t.accuracy > best))
    assert np.median(needed) < 40


def test_a_model_chooses_all_children_until_the_population_is_full_and_then_about_half() -> None:
    sampler = make_sampler("evolution", SPACE, 0)
    assert isinstance(sampler, EvolutionSampler)
    sampler.open(Aim(latencies=lambda g: 1.0 + g.sum(1), target_ms=30.0, hard=True, trials=300))
    rng = np.random.default_rng(0)
    asked, plain = [0], [0]
    fit, slower = sampler._fit, sampler.slower

    def fitted() -> np.ndarray:  # type: ignore[type-arg]
        asked[0] += 1
        return fit()

    def slow(genomes: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
        plain[0] += 1
        return slower(genomes)

    sampler._fit, sampler.slower = fitted, slow  # type: ignore[method-assign]
    for i in range(40):
        taken = sampler.ask(i, 1)
        sampler.tell(taken, [float(rng.random())])
        if i == 15:
            assert asked[0] == 8 and plain[0] == 0
    assert asked[0] == 32 and plain[0] == 24
    # of the children that it prefers and of plain ones about half are proposed
    better = []
    for seed in range(400):
        children = sampler.propose(np.random.default_rng(seed), 40, 1, 0)[:1]
        better.append(float((sampler._inputs(children) @ fit())[0]))
    every = sampler._inputs(sampler._children(rng, 400)) @ fit()
    share = np.mean(np.array(better) > np.quantile(every, 0.9))
    assert 0.35 < share < 0.75


def test_the_surrogate_begins_with_even_networks_that_lie_apart() -> None:
    """Under a limit on the sum of all choices, which a few large genes or many small ones can use up."""
    blocks = "\n".join(f"  - {{name: b{i}, s: 1, out: 8, e: [2, 3, 4, 6], k: 3}}" for i in range(8))
    head = "format: mbv3-space/1\nname: even\ninput: {resolution: 32}\nstem: {k: 3, out: 8, nl: HS, s: 2}\nblocks:\n"
    space = parse_space(f"{head}{blocks}\nhead: {{features: 0, classes: 4}}\n")
    aim = Aim(latencies=lambda g: g.sum(1) + 1.0, target_ms=13.0, hard=True, trials=40)

    def spread(genomes: Sequence[Genome]) -> float:
        return float(np.var(np.array(genomes), axis=1).mean())

    ours, others = [], []
    for seed in range(10):
        sampler, luck = make_sampler("surrogate", space, seed), make_sampler("evolution", space, seed)
        sampler.open(aim)
        luck.open(aim)
        taken: list[Genome] = []
        for i in range(4):
            taken += sampler.ask(i, 1)
            sampler.tell(taken[-1:], [0.5])
        assert min(sum(a != b for a, b in zip(x, y, strict=True)) for x, y in itertools.combinations(taken, 2)) >= 4
        ours.append(spread(taken))
        others.append(spread(luck.ask(0, 4)))
    assert np.mean(ours) < 0.8 * np.mean(others)


def test_numbers_of_a_choice_are_ordered_by_size_and_names_as_listed() -> None:
    assert _order((6, 3, 4)).tolist() == [2, 0, 1]
    assert _order(("skip", "a")).tolist() == [0, 1]


@pytest.mark.skipif(not (SHARED / "nas_bench_macro_cifar10.csv").exists(), reason="../shared/data is absent")
def test_the_surrogate_needs_few_networks_of_nas_bench_macro() -> None:
    space, truth = nas_bench_macro()
    best = np.quantile(list(truth.values()), 0.998)  # random draws need 350 in the median
    for seed in range(3):
        s = Search(space, truth.__getitem__, lambda g: 10.0, REWARD, sampler="surrogate", seed=seed, trials=60)
        assert max(t.accuracy for t in s.run(60)) > best
