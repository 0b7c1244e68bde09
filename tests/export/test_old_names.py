"""Scripts written for 0.1.0 find what they import."""

from mbv3.export import initial_weights


def test_weights_are_read_by_their_old_name() -> None:
    from mbv3.pipeline.train_init import initial_weights as old

    assert old is initial_weights
