"""`--init` and `--teacher-weights`: anybody's weights, by the export room's reader."""

from mbv3.export import initial_weights

__all__ = ["initial_weights"]
