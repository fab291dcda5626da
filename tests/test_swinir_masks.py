"""Window attention in PyTorch, which GPUs run: masks are shared by all images, and are right."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from fastbg.models import swinir
from fastbg.models.swinir import Axis, Layout, WindowAttention


def layer(heads: int = 3, window: int = 4) -> WindowAttention:
    torch.manual_seed(0)
    made = WindowAttention(4 * heads, heads, window).double().requires_grad_(False)
    made.bias_table.normal_()
    return made


def shifted_mask(window: int) -> Tensor:
    """Of a map of 2 x 3 windows, shifted by half a window."""
    rows, columns = (Axis.of(0, n * window, n * window, window, window // 2) for n in (2, 3))
    mask = Layout(rows, columns).mask(window, torch.empty(0, dtype=torch.float64))
    assert mask is not None
    assert mask.shape == (6, 1, window**2, window**2)
    return mask


def one_by_one(attention: WindowAttention, x: Tensor, mask: Tensor | None) -> Tensor:
    """The same, window by window and head by head."""
    count, n, c = x.shape
    bias = attention.bias_table[attention.position].view(n, n, attention.heads)
    results = []
    for i in range(count):
        q, k, v = attention.qkv(x[i]).view(n, 3, attention.heads, -1).unbind(1)
        heads = []
        for h in range(attention.heads):
            logits = q[:, h] @ k[:, h].T / (c // attention.heads) ** 0.5 + bias[..., h]
            if mask is not None:
                logits = logits + mask[i % len(mask), 0]
            heads.append(logits.softmax(1) @ v[:, h])
        results.append(attention.proj(torch.cat(heads, 1)))
    return torch.stack(results)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("masked", [True, False], ids=["masks", "none"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "frozen"])
def test_equals_one_window_at_a_time(images: int, masked: bool, training: bool) -> None:
    attention = layer().requires_grad_(training)
    mask = shifted_mask(4) if masked else None
    x = torch.randn(6 * images, 16, 12, dtype=torch.float64).requires_grad_()
    got, expected = attention(x, mask), one_by_one(attention, x, mask)
    torch.testing.assert_close(got, expected)
    upstream = torch.randn_like(got)
    gradients = [torch.autograd.grad(y, x, upstream)[0] for y in (got, expected)]
    torch.testing.assert_close(*gradients)


def test_masks_are_not_repeated_for_each_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """Repeated, those of 100 images of 32x32 would take 105 MB in every second block."""
    sizes = []

    def watched(*tensors: Tensor, attn_mask: Tensor) -> Any:
        sizes.append(attn_mask.untyped_storage().nbytes())
        return scaled_dot_product_attention(*tensors, attn_mask=attn_mask)

    monkeypatch.setattr(swinir, "scaled_dot_product_attention", watched)
    attention, mask = layer(), shifted_mask(4)
    for images in (1, 5):
        attention(torch.randn(6 * images, 16, 12, dtype=torch.float64), mask)
    assert sizes == [6 * 3 * 16 * 16 * 8] * 2


def test_no_image() -> None:
    assert layer()(torch.empty(0, 16, 12, dtype=torch.float64), shifted_mask(4)).shape == (
        0,
        16,
        12,
    )
