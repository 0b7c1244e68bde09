"""`initial_weights`, by the name that it had in 0.1.0."""

from mbv3.export import initial_weights

__all__ = ["initial_weights"]
