"""Steps of a file made fewer: composed activations become one, constants go into the convolution before them."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from mbv3.graph.found import Found, Norm, Step

__all__ = ["tidy"]

_NEAR = 2e-2  # of the constants of a hard sigmoid: a file in integers rounds them


def tidy(found: Found) -> Found:
    """`found` without what computes nothing: no affine stands after a convolution, hard sigmoid, h-swish and swish are
    one step each, and only what leads to the output is left."""
    steps, output = list(found.steps), found.output
    while (changed := _once(steps, output)) is not None:
        steps, output = changed
    return replace(found, steps=_live(steps, output), output=output)


def _live(steps: list[Step], output: str) -> tuple[Step, ...]:
    wanted, kept = {output}, []
    for step in reversed(steps):
        if step.output in wanted:
            kept.append(step)
            wanted.update(step.inputs)
    return tuple(reversed(kept))


def _is(step: Step | None, scale: float, shift: float) -> bool:
    """Whether a step is x * scale + shift with these two numbers."""
    if step is None or step.kind != "affine" or step.scale is None or step.shift is None:
        return False
    pairs = ((scale, step.scale), (shift, step.shift))
    return all(bool((abs(part - want) <= _NEAR * max(abs(want), 1 / 6)).all()) for want, part in pairs)


def _act(step: Step | None, nl: str) -> bool:
    return step is not None and step.kind == "act" and step.nl == nl


def _once(steps: list[Step], output: str) -> tuple[list[Step], str] | None:
    """The first change that can be made, made; None where there is none."""
    steps = list(_live(steps, output))
    made = {step.output: i for i, step in enumerate(steps)}
    uses = Counter(name for step in steps for name in step.inputs)
    uses[output] += 1

    def of(name: str) -> Step | None:
        return steps[made[name]] if name in made else None

    def taker(step: Step) -> Step | None:
        """Who takes a value that is taken once."""
        if uses[step.output] != 1:
            return None
        return next((s for s in steps if step.output in s.inputs), None)

    def become(*new: tuple[Step, Step | None]) -> tuple[list[Step], str]:
        """With each (old step, new one) exchanged; without those that become None."""
        by = {old.output: s for old, s in new}
        return [kept for s in steps if (kept := by.get(s.output, s)) is not None], output

    def without(step: Step) -> tuple[list[Step], str]:
        """A step that does nothing, left out."""
        [source] = step.inputs
        left = [
            replace(s, inputs=tuple(source if x == step.output else x for x in s.inputs))
            for s in steps
            if s is not step
        ]
        return left, source if output == step.output else output

    for step in steps:
        before = of(step.inputs[0])
        alone = before is not None and uses[before.output] == 1
        if step.kind == "affine" and step.scale is not None and step.shift is not None:
            if not (step.scale != 1).any() and not step.shift.any():
                return without(step)
            if before is not None and alone and before.kind in ("conv", "affine"):
                return become((step, _after(before, step)), (before, None))
            if before is not None and alone and _act(before, "RE6") and _is(step, 1 / 6, 0):
                inner = of(before.inputs[0])
                if inner is not None and _is(inner, 1, 3):
                    return become((step, replace(step, kind="act", nl="HSIGMOID", inputs=inner.inputs)))
                if inner is not None and inner.kind == "conv" and uses[inner.output] == 1:
                    whole = replace(step, kind="act", nl="HSIGMOID", inputs=(inner.output,))
                    return become((inner, _lowered(inner)), (before, None), (step, whole))
        if _act(step, "RE") and (_act(before, "RE") or _act(before, "RE6")):
            return without(step)
        if _act(step, "RE6") and _act(before, "RE6"):
            return without(step)
        if step.kind == "norm" and before is not None and alone:
            if before.kind == "conv" and before.norm is None:
                return become((step, _normed(before, step)), (before, None))
            if before.kind == "affine":
                return become((step, _plain(step)))
        if step.kind == "mul":
            a, b = step.inputs
            for x, other in ((a, b), (b, a)):
                inner = of(other)
                if inner is None or inner.kind != "act":
                    continue
                if inner.inputs == (x,) and inner.nl in ("HSIGMOID", "SIGMOID"):
                    nl = "HS" if inner.nl == "HSIGMOID" else "SILU"
                    return become((step, replace(step, kind="act", nl=nl, inputs=(x,))))
                shifted, small, last = of(inner.inputs[0]), of(x), taker(step)
                if inner.nl != "RE6" or shifted is None or not _is(shifted, 1, 3):
                    continue
                # x * relu6(x + 3), then a sixth of it; or a sixth of x times relu6(x + 3)
                if shifted.inputs == (x,) and last is not None and _is(last, 1 / 6, 0):
                    return become((last, replace(last, kind="act", nl="HS", inputs=(x,))))
                if small is not None and _is(small, 1 / 6, 0) and small.inputs == shifted.inputs:
                    return become((step, replace(step, kind="act", nl="HS", inputs=small.inputs)))
    return None


def _lowered(conv: Step) -> Step:
    """A convolution without the 3 of a hard sigmoid, which a converter put into its bias."""
    three = np.float32(3)
    if conv.norm is not None:
        return replace(conv, norm=replace(conv.norm, shift=conv.norm.shift - three))
    assert conv.bias is not None
    return replace(conv, bias=conv.bias - three)


def _after(before: Step, step: Step) -> Step:
    """One step for a convolution or an affine, and the affine after it."""
    assert step.scale is not None and step.shift is not None
    if before.kind == "affine":
        assert before.scale is not None and before.shift is not None
        return replace(step, inputs=before.inputs, scale=before.scale * step.scale,
                       shift=before.shift * step.scale + step.shift)  # fmt: skip
    assert before.kernel is not None and before.bias is not None
    if before.norm is not None:
        norm = replace(
            before.norm, gain=before.norm.gain * step.scale, shift=before.norm.shift * step.scale + step.shift
        )
        return replace(before, norm=norm, output=step.output)
    scale = np.broadcast_to(step.scale, before.bias.shape)
    return replace(
        before, kernel=before.kernel * scale[:, None, None, None], bias=before.bias * scale + step.shift,
        output=step.output,
    )  # fmt: skip


def _normed(before: Step, step: Step) -> Step:
    """A convolution with its batch norm; its bias goes into the mean."""
    assert step.norm is not None and before.bias is not None
    norm = replace(step.norm, mean=step.norm.mean - before.bias)
    return replace(before, bias=np.zeros_like(before.bias), norm=norm, output=step.output)


def _plain(step: Step) -> Step:
    """A batch norm as the affine that it is."""
    norm = step.norm
    assert isinstance(norm, Norm)
    scale = norm.gain / np.sqrt(norm.var + np.float32(norm.eps))
    return replace(step, kind="affine", norm=None, scale=scale, shift=norm.shift - norm.mean * scale)
