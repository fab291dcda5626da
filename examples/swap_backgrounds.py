"""How much does a foreground lose in another image's background?

Puts the middle of six photographs into the backgrounds of all six, restores the 36 composites with
the built-in EDSR, and prints the PSNR of each foreground. Takes a few seconds.
"""

import torch

from fastbg import composite_lr, load_model
from fastbg.data.builtin import builtin_images
from fastbg.measures.quality import psnr

SIDE = 128  # HR pixels
INNER = (48, 48, 80, 80)  # the foreground: y0, x0, y1, x1

photographs = [item for item in builtin_images().items if item.key.startswith("photographs")][:6]
hr = torch.stack([torch.from_numpy(p.load()[:SIDE, :SIDE]).permute(2, 0, 1) for p in photographs])
pairs = torch.cartesian_prod(torch.arange(len(hr)), torch.arange(len(hr)))
y0, x0, y1, x1 = INNER
truth = hr[pairs[:, 0], :, y0:y1, x0:x1] / 255

net = load_model("edsr")
for seam in ("hard", 4.0):  # 4.0: the background meets the foreground's rim over 4 pixels
    lr = composite_lr(hr, hr, pairs, INNER, seam=seam)  # (36,3,32,32)
    with torch.inference_mode():
        sr = net.forward_window(lr, INNER)  # (36,3,32,32): the foreground alone
    score = psnr(sr, truth).reshape(len(hr), len(hr))  # row: foreground, column: background
    loss = score - score.diag()[:, None]
    foreign = ~torch.eye(len(hr), dtype=torch.bool)
    print(f"seam {seam}: change in a foreign background {loss[foreign].mean():+.2f} dB on average")
    for row in score:
        print("  " + " ".join(f"{value:5.1f}" for value in row))
