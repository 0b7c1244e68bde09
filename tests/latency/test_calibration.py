"""Whole networks from single layers: the fit, and the kinds of layers that it tells apart."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mbv3.latency import Calibration, LatencyTable, NetworkTime, Timed, fit_calibration, network_time, weights_mb
from mbv3.latency.calibration import KINDS, NONE, _positive, kinds, reread, written_mb
from mbv3.latency.metrics import fidelity
from mbv3.netadapt import cut, sites
from mbv3.netadapt.proposals import channels
from mbv3.pipeline.alone import _WIDTHS
from mbv3.spec import Classify, Conv, DSConv, LayerKey, MBConv, load_spec, lower

from .fake import FINGERPRINT, layer_cost


def networks(a: float, b: float, c: float, n: int = 12, noise: float = 0.0) -> list[NetworkTime]:
    rng = np.random.default_rng(0)
    hot, mb = rng.uniform(3, 20, n), rng.uniform(2, 30, n)
    ms = (a * hot + b * mb + c) * (1 + noise * rng.standard_normal(n))
    return [
        NetworkTime(str(i), float(t), float(h), float(w), 0)
        for i, (t, h, w) in enumerate(zip(ms, hot, mb, strict=True))
    ]


@pytest.mark.parametrize(("a", "b", "c"), [(1.042, 0.0355, -0.42), (0.9, 0.0, 0.5), (1.0, 0.1, 0.0), (3.0, 0.2, 1.0)])
def test_a_known_calibration_is_recovered(a: float, b: float, c: float) -> None:
    found = fit_calibration(networks(a, b, c))
    assert (found.a, found.b, found.c) == pytest.approx((a, b, c), abs=1e-4)


def test_a_noisy_one_is_recovered_within_its_noise() -> None:
    nets = networks(1.05, 0.04, 0.3, n=200, noise=0.01)
    found = fit_calibration(nets)
    predicted = [found(n) for n in nets]
    assert fidelity(predicted, [n.ms for n in nets])["rmspe"] == pytest.approx(1.0, abs=0.2)  # 4 sigma
    assert (found.a, found.b) == pytest.approx((1.05, 0.04), abs=0.01)


def test_a_calibration_never_rewards_weights() -> None:
    assert fit_calibration(networks(1.2, -0.02, 0.0)).b == pytest.approx(0, abs=1e-6)
    assert fit_calibration(networks(-1.0, 1.0, 25.0)).a >= 0.1


@pytest.mark.parametrize("n", [0, 1, 3])
def test_too_few_networks_leave_the_plain_sum(n: int) -> None:
    assert fit_calibration(networks(2.0, 0.1, 0.3)[:n]) == Calibration(1.0, 0.0, 0.0)


def test_the_report_leaves_each_network_out_of_its_own_fit() -> None:
    nets = networks(1.05, 0.04, 0.3, n=8, noise=0.05)
    table = LatencyTable(FINGERPRINT, {}, {}).calibrated(nets)
    assert table.networks == tuple(nets) and table.calibration == fit_calibration(nets)
    held = [fit_calibration([n for n in nets if n is not m])(m) for m in nets]
    assert table.report is not None
    assert table.report.items() >= fidelity(held, [n.ms for n in nets]).items()
    assert table.report["baselines"]["plain_sum"] == fidelity([n.hot_ms for n in nets], [n.ms for n in nets])
    fitted = fidelity([table.calibration(n) for n in nets], [n.ms for n in nets])
    assert table.report["rmspe"] > fitted["rmspe"]
    assert LatencyTable(FINGERPRINT, {}, {}).calibrated([]).report is None


# -- kinds


def test_kinds_by_hand() -> None:
    def of(**more: object) -> list[str]:
        row = MBConv(**{"k": 3, "exp": 16, "out": 8, "se": 0, "nl": "RE", "s": 1, "skip": "none", **more})  # type: ignore[arg-type]
        return [k for k, is_one in zip(KINDS, kinds(LayerKey(row, 8, 9, 9)), strict=True) if is_one]

    assert of() == ["mbconv"]
    assert of(k=5) == ["k5", "mbconv"] and of(k=7) == of(k=9) == ["k7", "mbconv"]
    assert of(se=4, s=2) == ["se", "stride", "mbconv"]
    assert of(skip="identity", se=8, k=5) == ["k5", "se", "skip", "mbconv"]
    assert of(out=12) == ["odd", "mbconv"] and of(exp=12) == ["mbconv"]
    assert kinds(LayerKey(DSConv(k=3, out=8), 4, 9, 9))[5]
    assert not any(kinds(LayerKey(Classify(features=0, nl="NONE", classes=3), 8, 7, 7)))
    assert kinds(LayerKey(Conv(k=3, s=2, out=8, nl="HS"), 3, 9, 9))[3:7] == (True, False, True, True)
    assert kinds(LayerKey(DSConv(k=3, out=8), 8, 9, 9))[6:] == (False, True, *[False] * (len(KINDS) - 8))


def test_what_is_written_by_hand() -> None:
    row = MBConv(k=3, exp=16, out=8, se=4, nl="RE", s=2, skip="none")
    wrote = 16 * 9 * 9 + 16 * 5 * 5 + 4 + 16 + 8 * 5 * 5  # expansion, depthwise, squeeze and excitation, projection
    assert written_mb(LayerKey(row, 8, 9, 9)) == pytest.approx(4e-6 * wrote)


def test_what_is_read_back_by_hand() -> None:
    for row in (DSConv(k=3, out=8), MBConv(k=3, exp=16, out=8, se=4, nl="RE", s=2, skip="none")):
        key = LayerKey(row, 8, 40, 30)
        assert reread(key) ** 2 == pytest.approx(written_mb(key)) and reread(key) > 0.1
        assert Calibration(1.1, e=0.2).layer_ms(key, 3.0) == pytest.approx((1.1 + 0.2 * reread(key)) * 3)
    assert reread(LayerKey(Conv(k=3, s=2, out=8, nl="HS"), 3, 90, 90)) == 0


def test_what_reading_back_costs_is_found() -> None:
    rng = np.random.default_rng(2)
    nets = []
    for i, (hot, share) in enumerate(rng.uniform((3, 0), (20, 0.8), (60, 2)).tolist()):
        ms = 1.1 * hot + 0.2 + 0.05 * share * hot
        nets.append(NetworkTime(str(i), ms, hot, 1.0, 0, reread_ms=share * hot))
    found = fit_calibration(nets)
    assert found.e == pytest.approx(0.05, abs=0.01) and error(found, nets) < 0.2
    faster = [replace(n, ms=n.ms - 0.1 * n.reread_ms) for n in nets]
    assert fit_calibration(faster).e < 1e-9  # never less than nothing


def test_cuts_to_multiples_of_eight_change_no_kind() -> None:
    spec = load_spec("mobilenet_v3_large")
    for site in sites(spec):
        for to in (channels(spec, site) // 16 * 8, channels(spec, site) // 2 - 1):
            smaller = cut(spec, site, to)
            assert smaller is not None
            same = [kinds(x.key) for x in lower(smaller)] == [kinds(x.key) for x in lower(spec)]
            assert same == (to % 8 == 0 or site.kind == "expansion")


def with_kinds(
    n: int, noise: float = 0.0, factors: tuple[float, ...] = NONE, each: tuple[float, ...] = NONE, d: float = 0.0
) -> list[NetworkTime]:
    rng = np.random.default_rng(1)
    nets = []
    for i in range(n):
        hot, mb, written = rng.uniform(3, 20, 3)
        parts = rng.uniform(0, 0.6, len(KINDS)) * hot
        counts = rng.integers(0, 12, len(KINDS))
        ms = 1.1 * hot + 0.03 * mb + 0.2 + d * written + float(parts @ factors + counts @ each)
        ms *= 1 + noise * rng.standard_normal()
        nets.append(NetworkTime(str(i), ms, hot, mb, 0, written, 0.0, tuple(parts.tolist()), tuple(counts.tolist())))
    return nets


FACTORS = (0.1, -0.15, 0.3, 0.0, -0.05, 0.05, 0.0, 0.1, -0.1, *NONE[9:])
EACH = (0.0, 0.1, 0.0, 0.05, 0.0, 0.0, 0.0, 0.2, 0.02, *NONE[9:])


def error(calibration: Calibration, nets: list[NetworkTime]) -> float:
    return float(fidelity([calibration(n) for n in nets], [n.ms for n in nets])["rmspe"])


def test_what_a_kind_costs_is_found() -> None:
    nets = with_kinds(400, 0.0, FACTORS, EACH, 0.05)
    found = fit_calibration(nets)
    assert found.kinds == pytest.approx(FACTORS, abs=0.03)
    assert found.each == pytest.approx(EACH, abs=0.02)
    assert found.d == pytest.approx(0.05, abs=0.01)
    plain = fit_calibration(NetworkTime(n.label, n.ms, n.hot_ms, n.mb, 0) for n in nets[:60])
    assert np.abs([*plain.kinds, *plain.each, plain.d]).max() < 1e-6
    assert error(fit_calibration(nets[:60]), nets[60:]) < 0.4 * error(plain, nets[60:])


def test_noise_is_not_taken_for_kinds() -> None:
    found = fit_calibration(with_kinds(36, 0.02))
    assert np.abs(found.kinds).max() < 0.06  # a factor's standard error is 0.02 / sqrt(36) / 0.17 = 0.02
    assert error(found, with_kinds(80)[36:]) < 1.5


def test_how_strongly_kinds_are_held_follows_what_they_tell() -> None:
    """Noise alone: nearly the plain calibration. Another device's kinds, told by ten networks: better than that."""
    for factors, least, most in ((NONE, 0.9, 1.1), (tuple(5 * f for f in FACTORS), 0.0, 0.8)):
        nets = with_kinds(200, 0.01, factors)
        plain = fit_calibration(NetworkTime(n.label, n.ms, n.hot_ms, n.mb, 0) for n in nets[:10])
        assert least < error(fit_calibration(nets[:10]), nets[10:]) / error(plain, nets[10:]) < most


def test_networks_that_differ_in_width_alone_say_nothing_of_kinds() -> None:
    """What `mbv3 netadapt` calibrates on: shares of kinds hardly vary, so noise must not be taken for them."""
    keys = [[x.key for x in lower(load_spec(f"mobilenet_v3_large@{w:g}"))] for w in _WIDTHS]
    rng = np.random.default_rng(0)
    largest = 0.0
    for _ in range(20):
        nets = []
        for i, mine in enumerate(keys):
            hot = np.array([layer_cost(k) for k in mine])
            of = np.array([kinds(k) for k in mine], dtype=float)
            by_kind = tuple((hot @ of).tolist()), tuple(of.sum(axis=0).tolist())
            ms = float(hot.sum()) * (1 + 0.01 * rng.standard_normal())
            mb, written = sum(map(weights_mb, mine)), sum(map(written_mb, mine))
            again = float(hot @ [reread(k) for k in mine])
            nets.append(NetworkTime(str(i), ms, float(hot.sum()), mb, 0, written, again, *by_kind))
        largest = max(largest, float(np.abs(fit_calibration(nets).kinds).max()))
    assert largest < 0.06


def test_a_kind_that_all_networks_share_is_left_to_the_scale() -> None:
    shared = (0.0,) * (len(KINDS) - 1)
    nets = [
        NetworkTime(n.label, n.ms, n.hot_ms, n.mb, 0, kinds_ms=(0.4 * n.ms, *shared)) for n in networks(1.2, 0.1, 0.1)
    ]
    assert fit_calibration(nets).kinds == pytest.approx(NONE, abs=0.01)


def test_no_layer_comes_out_for_nothing() -> None:
    good = (0.1, -0.2, 0.0, -0.5, 0.3, 0.0, -0.05, -0.1, 0.2)
    assert _positive(1.0, good) == good
    smaller = _positive(1.0, (-0.5, 0.4, -0.5, -0.4, 0.1, 0.0, 0.2, -0.1, -0.2))  # a layer is k5 or k7: 1.6 at most
    assert smaller == pytest.approx((-0.25, 0.4, -0.25, -0.2, 0.1, 0.0, 0.2, -0.05, -0.1))  # together a fifth is left
    row = MBConv(k=5, exp=16, out=8, se=4, nl="RE", s=2, skip="pool")
    assert Calibration(kinds=(*smaller, *NONE[9:])).layer_ms(LayerKey(row, 8, 9, 9), 1.0) == pytest.approx(0.3)


def test_rows_and_networks_say_the_same() -> None:
    spec = load_spec("mobilenet_v3_small")
    keys = {x.key for x in lower(spec)}
    table = LatencyTable(
        FINGERPRINT, {}, {k: Timed(layer_cost(k), 1, layer_cost(k), 0.0) for k in keys},
        calibration=Calibration(1.1, 0.04, -0.2, 0.01, 0.05, FACTORS, EACH),
    )  # fmt: skip
    assert table.latency_ms(spec) == pytest.approx(table.calibration(network_time("x", spec, table, 1.0)))
