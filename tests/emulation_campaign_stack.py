"""The CUDA kernels of stacks of convolutions, emulated, forward and backward, against float64.

Run by test_conv_stack_cuda.py in processes with sanitizers: ``emulation_campaign_stack.py FOLDER``
takes the module from FOLDER.
"""

from collections.abc import Iterator

import torch
from emulation_campaign import main
from stack_cases import close, cut, in_double, trimmed
from torch import Tensor

from fastbg.geometry import Box
from fastbg.ops.conv_stack import ChannelAttention, StackLayer, conv_stack

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


def conv(outputs: int, inputs: int, **options: object) -> StackLayer:
    """Sanitizers are slow: few channels, but more than one block where it matters."""
    weight = random(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5
    return StackLayer(weight, random(outputs), **options)  # type: ignore[arg-type]


def attention(channels: int, squeezed: int) -> ChannelAttention:
    shapes = (squeezed, channels, 1, 1), (squeezed,), (channels, squeezed, 1, 1), (channels,)
    return ChannelAttention(*(random(*shape) for shape in shapes))


def run_cases() -> Iterator[str]:
    """Run the cases one by one; yields what each was."""
    cases = {
        "attention": [
            conv(4, 3, relu=True),
            conv(4, 4, residual=1, residual_scale=0.5, attention=attention(4, 3)),
            conv(4, 4, residual=1),
        ],
        "odd channels": [
            conv(17, 3),
            conv(5, 17, relu=True),
            conv(17, 5, residual=1, attention=attention(17, 1)),
        ],
        "shuffles": [conv(12, 3, upscale=2, relu=True), conv(3, 3, residual=1)],
    }
    for name, layers in cases.items():
        x = random(1, 3, 3, 17).requires_grad_()
        exact = x.detach().double().requires_grad_()
        window = Box(0, 1, 2, 9)
        some = trimmed(x, layers, window, False)
        y, expected = conv_stack(x, some, backend="cuda"), conv_stack(exact, in_double(some))
        y, expected = cut(y, some, window), cut(expected, some, window)
        close(y.detach(), expected.detach(), 2e-6)
        grad = random(*y.shape)
        got = torch.autograd.grad(y, x, grad)[0]
        close(got, torch.autograd.grad(expected, exact, grad.double())[0], 3e-6)
        yield name


if __name__ == "__main__":
    main(run_cases)
