"""A data folder and a network so small that a whole run takes a second."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastbg.filters.bicubic import bicubic_matrix
from fastbg.models.checkpoints import save_model
from fastbg.models.edsr import EDSR
from fastbg.models.rcan import RCAN

EXPERIMENTS = ("slicing", "table1")  # few, so that a test of runs does not grow with each new one
OPTIONS = (
    *("-o", "table1.count=25", "-o", "table1.size=64", "-o", "table1.region=32"),
    *("-o", "slicing.tile=32"),
)


def make_images(folder: Path, count: int = 4) -> Path:
    """`count` PNG files of smooth random colours, 80 x 96 pixels."""
    folder.mkdir()
    for i in range(count):
        rng = np.random.default_rng(i)
        coarse = Image.fromarray(rng.integers(0, 256, (10, 12, 3), dtype=np.uint8))
        coarse.resize((96, 80), Image.Resampling.BICUBIC).save(folder / f"{i}.png")
    return folder


def rounded_once(image: np.ndarray, scale: int) -> np.ndarray:
    """What the experiments give networks: MATLAB's bicubic on real values, rounded once."""
    rows, columns = (bicubic_matrix(side, scale) for side in image.shape[:2])
    small = np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns)
    return (small + 0.5).clip(0, 255).astype(np.uint8)


def lr_tensor(hr: np.ndarray) -> Tensor:
    """LR (1,3,h/4,w/4) in [0,1] of `hr` (h,w,3) uint8."""
    return torch.from_numpy(rounded_once(hr, 4)).permute(2, 0, 1)[None].float() / 255


def plain_psnr(sr: Tensor, hr: np.ndarray) -> float:
    """PSNR in a few lines of numpy: sr (3,h,w) in [0,1], hr (h,w,3) uint8."""
    levels = (sr.numpy().transpose(1, 2, 0).clip(0, 1) * 255).round()
    return float(10 * np.log10(255**2 / ((levels - hr) ** 2).mean()))


def make_network(path: Path, seed: int = 0) -> Path:
    """A random EDSR with 4 features and 1 block, x4."""
    torch.manual_seed(seed)
    save_model(EDSR(features=4, blocks=1), path)
    return path


def make_rcan(path: Path) -> Path:
    """A random RCAN with 4 features, 1 group and 1 block, x4, whose attention matters."""
    torch.manual_seed(0)
    net = RCAN(features=4, groups=1, blocks=1, squeezed=2)
    block = net.body[0].blocks[0]
    with torch.no_grad():  # of two opposite numbers, one passes the ReLU
        block.squeeze.weight[1] = -block.squeeze.weight[0]
        block.squeeze.bias.zero_()
    save_model(net, path)
    return path


def contents(folder: Path) -> dict[str, list[Any]]:
    """Every record and every array of a run, in order."""
    with closing(sqlite3.connect(folder / "run.sqlite")) as connection:
        return {
            table: connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3, 4").fetchall()  # noqa: S608
            for table in ("records", "arrays")
        }
