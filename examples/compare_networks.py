"""Which pixels did three networks use for one window, and how wide do they look?

Draws the local attribution map (LAM) of each built-in network for the same window of a photograph
into lam_edsr.png, lam_rcan.png and lam_swinir.png. Takes about 15 seconds.
"""

import torch

from fastbg import LocalAttribution, load_model
from fastbg.data.builtin import builtin_images
from fastbg.data.degradation import downsample

WINDOW = (88, 88, 16)  # y, x, size in pixels of the output
AROUND = (72, 72, 120, 120)  # the window and 16 pixels more on each side: y0, x0, y1, x1

photograph = builtin_images()["photographs/kodim08"]
small = downsample(photograph.load()[:192, :192], 4)  # (48,48,3) uint8
lr = torch.from_numpy(small).permute(2, 0, 1)[None] / 255

for name in ("edsr", "rcan", "swinir"):
    result = LocalAttribution(load_model(name)).attribute(lr, WINDOW, accuracy="published")
    result.plot().savefig(f"lam_{name}.png", dpi=100)
    far = 1 - float(result.share(AROUND)[0])
    print(f"{name:6} diffusion index {float(result.diffusion_index[0]):5.2f}, {far:.0%} far away")
