"""Every CPU kernel on images that keep several threads busy; `python race_cases.py SO [planted]`.

As a script it loads a ThreadSanitizer build of fastbg._cpu from the file SO, runs each case on 1
and on 3 threads, and wants equal bits. With "planted", it runs a race that must be reported.
"""

import ctypes
import importlib.util
import sys
from collections.abc import Callable

import torch
from torch import Tensor

import fastbg

Case = Callable[[], list[Tensor]]


def cases() -> dict[str, Case]:
    """Forward and backward of every operator; each gives the same bits whenever it is called."""
    made = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.rand(shape, generator=made)

    images, levels = random(5, 3, 96, 100), (random(4, 3, 96, 100) * 255).byte()
    pairs = torch.randint(0, 4, (9, 2), generator=made)
    rings = {"inner": (30, 30, 66, 70), "outer": (9, 13, 90, 81)}
    cells = torch.randint(0, 8, (5, 3, 3), generator=made)
    nodes, sigmas = random(2, 7, 3, 70, 90), [0.2 * k for k in range(8)]
    windows = (3, 5, 90, 97)
    features, mask = random(2, 70, 61, 67), random(2, 3, 61, 67)
    large = random(1, 33, 90, 160)  # several chunks
    weight, bias = random(64, 3, 3, 3) - 0.5, random(64) - 0.5
    filters = random(16, 16, 3, 3) - 0.5
    norm = random(20), random(20)
    attention = (*norm, random(60, 20), random(60), random(225, 2), random(20, 20), random(20))
    mlp = (*norm, random(36, 20), random(36), random(20, 36), random(20))

    def with_gradients(call: Callable[..., Tensor], *inputs: Tensor) -> Case:
        def run() -> list[Tensor]:
            leaves = [x.detach().clone().requires_grad_() for x in inputs]
            result = call(*leaves)
            return [result.detach(), *torch.autograd.grad(result.sum(), leaves)]

        return run

    cpu = {"backend": "cpu"}
    return {
        "composite": with_gradients(
            lambda a: fastbg.composite(a, a, pairs, **rings, **cpu), images[:4]
        ),
        "composite of levels": lambda: [fastbg.composite(levels, levels, pairs, **rings, **cpu)],
        "composite_lr": lambda: [fastbg.composite_lr(levels, levels, pairs, **rings, **cpu)],
        "composite_lr of floats": lambda: [
            fastbg.composite_lr(images, images, pairs, **rings, scale=2, kernel="pil", **cpu)
        ],
        "bridged composite": with_gradients(
            lambda a: fastbg.composite(a, a, pairs, **rings, seam=3.0, **cpu), images[:4]
        ),
        "bridged composite_lr": lambda: [
            fastbg.composite_lr(levels, levels, pairs, **rings, seam=3.0, **cpu)
        ],
        "bridged composite_lr of floats": lambda: [
            fastbg.composite_lr(images, images, pairs, **rings, seam=1e3, scale=2, **cpu)
        ],
        "mosaic": lambda: [fastbg.mosaic(images[..., :96], cells, **cpu)],
        "blur_path": with_gradients(lambda x: fastbg.blur_path(x, sigmas, **cpu), images[:2]),
        "path_integral": with_gradients(
            lambda g, x: fastbg.path_integral(g, x, sigmas, **cpu), nodes, random(2, 3, 70, 90)
        ),
        "gradient_detector": with_gradients(
            lambda x: fastbg.gradient_detector(x, windows, **cpu), images
        ),
        "gram": with_gradients(lambda f: fastbg.gram(f, mask, **cpu), features),
        "gram of one image": with_gradients(lambda f: fastbg.gram(f, **cpu), large),
        "conv_gram": lambda: [fastbg.conv_gram(images, weight, bias, **cpu)],
        "conv3x3": with_gradients(
            lambda x, w: fastbg.conv3x3(x, w, None, relu=True, **cpu),
            random(2, 16, 37, 41),
            filters,
        ),
        "window_attention": with_gradients(
            lambda x: fastbg.window_attention(x, *attention, heads=2, window=8, shift=4, **cpu),
            random(3, 20, 40, 48),
        ),
        "pixel_mlp": with_gradients(
            lambda x: fastbg.pixel_mlp(x, *mlp, **cpu), random(3, 20, 40, 44)
        ),
    }


def equal(found: list[Tensor], expected: list[Tensor]) -> bool:
    """Bit by bit."""
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def main(path: str, planted: bool) -> None:
    """See above; leaves with an error where anything is wrong, and so does the sanitizer."""
    if planted:
        value = ctypes.c_long()
        library = ctypes.CDLL(path)
        library.fastbg_planted_order(ctypes.byref(value))
        print("order", value.value, flush=True)
        library.fastbg_planted_race(ctypes.byref(value))
        print("raced", flush=True)
        return
    spec = importlib.util.spec_from_file_location("fastbg._cpu", path)
    assert spec is not None
    assert spec.loader is not None
    sys.modules["fastbg._cpu"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.set_num_threads(1)  # of torch itself, which is no business of this test
    for name, case in cases().items():
        torch.get_num_threads = lambda: 1
        alone = case()
        torch.get_num_threads = lambda: 3  # of fastbg's kernels
        assert equal(case(), alone), f"{name}: other bits on 3 threads"
        print("checked", name, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], "planted" in sys.argv[2:])
