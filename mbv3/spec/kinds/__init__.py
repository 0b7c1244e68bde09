"""Every kind of row by its word in YAML and in layer keys. A new kind is a file here and an entry below."""

from mbv3.spec.kinds.conv import Conv
from mbv3.spec.kinds.dsconv import DSConv
from mbv3.spec.kinds.fused import Fused
from mbv3.spec.kinds.mbconv import MBConv
from mbv3.spec.kinds.row import Expanding, Row
from mbv3.spec.kinds.uib import UIB

__all__ = ["ROWS", "UIB", "Conv", "DSConv", "Expanding", "Fused", "MBConv", "Row"]

ROWS: dict[str, type[Row]] = {kind.word(): kind for kind in (MBConv, DSConv, Conv, UIB, Fused)}
