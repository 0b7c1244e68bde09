"""ArchSpec to torch module, and surgery on its weights."""

from mbv3.nn.build import Network, build, state_shapes
from mbv3.nn.surgery import cut_state

__all__ = ["Network", "build", "cut_state", "state_shapes"]
