"""The built-in networks, trained for this package and similar in cost.

Per training step (8 patches of 24x24, float32, channels_last) RCAN costs as much as EDSR and SwinIR
1.2 times as much, so that what differs between them is the architecture.
"""

from collections.abc import Callable

from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR

# x4. Millions of parameters, multiply-adds per LR pixel: 1.52, 1.98M; 1.40, 1.84M; 0.76, 0.87M.
BUILT_IN: dict[str, Callable[[], Network]] = {
    "edsr": lambda: EDSR(features=64, blocks=16),
    "rcan": lambda: RCAN(features=64, groups=4, blocks=3, squeezed=16),
    "swinir": lambda: SwinIR(width=64, depths=(4, 4, 4, 4), heads=(4, 4, 4, 4)),
}
