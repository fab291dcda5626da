"""LAM in plain PyTorch, two ways, on the path's nodes `first` to `last` of `n_steps`.

`published`: what the public script does - one image per step, the whole SR image, the gradient
magnitude of all of it before the window is cut, backward through all parameters, NaN set to 0.
`good`: what an expert writes without changing the networks - parameters frozen, channels_last, a
batch of nodes, the objective on the window alone.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad

SIGMA, SIZE = 1.2, 9


def kernels(n_steps: int) -> Tensor:
    """The public code's kernels (n_steps + 1, 9, 9) in float64, baseline first."""
    sigmas = torch.linspace(SIGMA, 0, n_steps + 1, dtype=torch.float64)
    x = torch.arange(SIZE, dtype=torch.float64) - SIZE // 2
    distance = x[:, None] ** 2 + x**2
    weights = torch.exp(-distance / (2 * (sigmas[:, None, None] + 1e-5) ** 2))
    return weights / weights.sum((1, 2), keepdim=True)


def filtered(image: Tensor, kernel: Tensor) -> Tensor:
    """(1,3,h,w) under kernels (K,9,9), reflect-101: (K,3,h,w), computed in float64."""
    padded = pad(image.double(), (SIZE // 2,) * 4, mode="reflect")
    return conv2d(padded.transpose(0, 1), kernel[:, None]).transpose(0, 1).to(image.dtype)


def published(
    model: nn.Module, image: Tensor, window: tuple[int, int, int], n_steps: int, nodes: range
) -> Tensor:
    """Sum over `nodes` of gradient times derivative / n_steps: (3,h,w)."""
    y, x, size = window
    table = kernels(n_steps)
    model.eval()
    total = torch.zeros_like(image[0])
    for i in nodes:
        node = filtered(image, table[i + 1 : i + 2])
        derivative = filtered(image, (table[i + 1 : i + 2] - table[i : i + 1]) * n_steps)
        node.requires_grad_()
        sr = model(node)
        down = (sr[:, :, :-1] - sr[:, :, 1:]) ** 2
        right = (sr[..., :-1] - sr[..., 1:]) ** 2
        magnitude = (down[..., :-1] + right[:, :, :-1]) ** 0.5
        magnitude[..., y : y + size, x : x + size].sum().backward()
        assert node.grad is not None
        gradient = node.grad.nan_to_num(nan=0.0)
        total += gradient[0] * derivative[0]
        model.zero_grad()
    return total / n_steps


def good(
    model: nn.Module,
    image: Tensor,
    window: tuple[int, int, int],
    n_steps: int,
    nodes: range,
    batch: int,
) -> Tensor:
    """The same; `model` is frozen, in eval mode and channels_last."""
    y, x, size = window
    table = kernels(n_steps)
    total = torch.zeros_like(image[0])
    for part in torch.tensor(nodes).split(batch):
        node = filtered(image, table[part + 1])
        step = filtered(image, table[part + 1] - table[part])
        node = node.contiguous(memory_format=torch.channels_last).requires_grad_()
        sr = model(node)[..., y : y + size + 1, x : x + size + 1]
        down = sr[..., 1:, :-1] - sr[..., :-1, :-1]
        right = sr[..., :-1, 1:] - sr[..., :-1, :-1]
        objective = (down**2 + right**2).clamp(min=1e-24).sqrt().sum()
        (gradient,) = torch.autograd.grad(objective, node)
        total += (gradient * step).sum(0)
    return total
