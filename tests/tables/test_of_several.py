"""One table of several scaled spaces."""

from __future__ import annotations

from mbv3.space import layer_keys, load_space, scale
from mbv3.spec import lower
from mbv3.tables import reference_at, table_of_several, table_plan


def test_it_holds_every_layer_of_each() -> None:
    base = load_space("mnasnet-imagenet")
    spaces = [scale(base, 0.5, 128), scale(base, 0.75, 160)]
    plan = table_of_several(spaces)
    for space in spaces:
        assert set(layer_keys(space)) <= set(plan.keys)
    labels = [label for label, _ in plan.calibration]
    assert len(labels) == len(set(labels)) == len(table_plan(spaces[0]).calibration)
    assert (
        sum("@0.5x128" in label for label in labels) == sum("@0.75x160" in label for label in labels) == len(labels) / 2
    )
    assert all(x.key in plan.keys for _, spec in plan.calibration for x in lower(spec))
    assert plan.reference == reference_at(0.75, (160, 160)) and plan.about["scales"] == ["0.5x128", "0.75x160"]
    assert plan.about["space_id"] not in [table_plan(s).about["space_id"] for s in spaces]


def test_of_equal_spaces_it_is_the_table_of_one() -> None:
    space = scale(load_space("mnasnet-imagenet"), 0.5, 128)
    assert table_of_several([space, space]) == table_plan(space)
