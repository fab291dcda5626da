"""Anything may come: every operator on every backend that runs here, image files, weights files.

`FASTBG_FUZZ_CASES` is the number of cases of each operator on each backend; `nox -s fuzz` sets it.
What it found is kept below, as tests of their own.
"""

import json
import os
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import fuzz_case
import fuzz_operators
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from runnable_backend import runnable
from safetensors.torch import save_file

import fastbg
from fastbg.data.images import image_size, read_image
from fastbg.errors import CheckpointError, DataError, InvalidArgument
from fastbg.models.checkpoints import load_model
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN
from fastbg.models.swinir import SwinIR
from fastbg.registration.dispatch import BACKENDS

CASES = int(os.environ.get("FASTBG_FUZZ_CASES", "4"))
campaign = settings(
    max_examples=CASES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate, *([Phase.shrink] if CASES > 10 else [])),
    derandomize=CASES <= 10,  # the short version says the same every time
    print_blob=True,
)


@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize("name", [name for name in BACKENDS if name != "torch"])
@pytest.mark.parametrize("op", fuzz_operators.OPERATORS)
def test_operators(op: str, name: str) -> None:
    backend = runnable(name, fuzz_operators.REGISTERED.get(op, op))
    limit = fuzz_case.PIXELS.get(name, fuzz_case.FEW_PIXELS)

    @given(case=fuzz_operators.OPERATORS[op](limit))
    @campaign
    def check(case: fuzz_case.Case) -> None:
        fuzz_case.check(case, backend)

    check()


@pytest.mark.parametrize("backend", ["torch", "cpu", "triton", "cuda"])
@pytest.mark.parametrize("size", [(0, 5), (5, 0), (0, 0)])
def test_convolutions_of_no_pixels_are_refused_by_name(size: tuple[int, int], backend: str) -> None:
    """The reference ended in a RuntimeError of conv2d, the C++ kernels gave an empty result."""
    images, weight, bias = torch.zeros(2, 3, *size), torch.zeros(64, 3, 3, 3), torch.zeros(64)
    with pytest.raises(InvalidArgument, match=r"images: got shape .*; expected at least one pixel"):
        fastbg.conv_gram(images, weight, bias, backend=backend)
    with pytest.raises(InvalidArgument, match=r"x: got shape .*; expected at least one channel"):
        fastbg.conv3x3(images, weight, backend=backend)


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize("pairs", [0, 2])
def test_bridged_composites_of_no_pixels_are_empty(pairs: int, size: tuple[int, int]) -> None:
    """The reference ended in a RuntimeError of reshape."""
    images, index = torch.zeros(1, 3, *size), torch.zeros(pairs, 2, dtype=torch.int64)
    made = fastbg.composite(images, images, index, (0, 0, 0, 0), seam=2.0, backend="torch")
    assert made.shape == (pairs, 3, *size)


@pytest.mark.parametrize("name", BACKENDS)
def test_an_infinite_pixel_shows_where_its_kernel_reaches(name: str) -> None:
    """Of two outer products the reference makes inf - inf; the GPU kernels add weights first."""
    backend = runnable(name, "path_integral")
    image = torch.zeros(1, 1, 3, 8)
    image[0, 0, 1, 2] = torch.inf
    gradients = torch.ones(1, 1, 1, 3, 8)
    arguments = gradients.to(backend.device), image.to(backend.device)
    result = fastbg.path_integral(*arguments, [0.0, 0.3], kernel_size=3, backend=name)
    reached = torch.zeros(1, 1, 3, 8, dtype=torch.bool)
    reached[..., 1:4] = True
    assert torch.equal(~result.cpu().isfinite(), reached)


@pytest.mark.parametrize("name", BACKENDS)
def test_lengths_that_are_no_number_have_no_gradient(name: str) -> None:
    """Three of four backends gave the finite difference beside a NaN a finite gradient, or none."""
    backend = runnable(name, "gradient_detector")
    sr = torch.tensor([[[[-0.8, 0.6, 0.1], [torch.nan, 0.3, 0.1], [0.2, 0.1, 0.1]]]])
    sr = sr.to(backend.device).requires_grad_()
    objective = fastbg.gradient_detector(sr, (0, 0, 2, 3), backend=name)
    (got,) = torch.autograd.grad(objective, sr)
    assert objective.isnan().all()
    down, right = sr[..., 1:, :-1] - sr[..., :-1, :-1], sr[..., :-1, 1:] - sr[..., :-1, :-1]
    (expected,) = torch.autograd.grad((down**2 + right**2).sqrt().sum(), sr)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("name", BACKENDS)
def test_an_infinite_length_beside_a_nan_is_none(name: str) -> None:
    """The reference took hypot(inf, NaN), which is infinite, where the square root is NaN."""
    backend = runnable(name, "gradient_detector")
    sr = torch.tensor([[[[0.0, torch.nan], [torch.inf, 0.0]]]]).to(backend.device)
    assert fastbg.gradient_detector(sr, (0, 0, 1, 1), backend=name).isnan().all()


# Image files ----------------------------------------------------------------------------------

SHARES = range(100) if CASES > 10 else range(0, 100, 9)


def read(path: Path) -> np.ndarray | None:
    """The pixels; None if the file is refused, which must name it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's, of damaged metadata
        try:
            image_size(path)
            return read_image(path)
        except DataError as error:
            message = str(error)
    assert message.startswith(f"{path}: ")
    return None


@pytest.fixture(scope="module")
def photograph() -> Image.Image:
    coarse = np.random.default_rng(0).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((45, 37), Image.Resampling.BICUBIC)


FORMATS = (
    ("png", {}),
    ("jpg", {}),
    ("jpg", {"progressive": True}),
    ("bmp", {}),
    ("tiff", {}),
    ("tiff", {"compression": "tiff_lzw"}),
    ("webp", {}),
    ("webp", {"lossless": True}),
)


@pytest.mark.parametrize(("kind", "options"), FORMATS)
def test_image_files_cut_off(
    kind: str, options: dict[str, object], photograph: Image.Image, tmp_path: Path
) -> None:
    """At every percent of its length: refused, or, if only a trailer is missing, read rightly."""
    whole = tmp_path / f"whole.{kind}"
    photograph.save(whole, **options)
    content, pixels = whole.read_bytes(), read(whole)
    assert pixels is not None
    refused = 0
    for share in SHARES:
        cut = tmp_path / f"cut{share}.{kind}"
        cut.write_bytes(content[: len(content) * share // 100])
        found = read(cut)
        refused += found is None
        assert found is None or np.array_equal(found, pixels), f"{share} %: other pixels"
    assert refused >= len(SHARES) - 2


@pytest.mark.parametrize(("kind", "options"), FORMATS)
def test_image_files_with_flipped_bits(
    kind: str,
    options: dict[str, object],
    photograph: Image.Image,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Pixels, which may be wrong, or an error that names the file."""
    path = tmp_path_factory.mktemp("flipped") / f"image.{kind}"
    photograph.save(path, **options)
    content = path.read_bytes()

    @given(flips=st.lists(st.integers(0, 8 * len(content) - 1), min_size=1, max_size=6))
    @campaign
    def check(flips: list[int]) -> None:
        damaged = bytearray(content)
        for bit in flips:
            damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        found = read(path)
        assert found is None or (found.ndim == 3 and found.dtype == np.uint8)

    check()


def test_decompression_bombs_are_refused(
    photograph: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photograph.save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 45 * 37 // 2 - 1)  # twice as many raise
    with pytest.raises(DataError, match=r"bomb\.png: cannot be read as an image: .*bomb"):
        read_image(tmp_path / "bomb.png")


# Weights files --------------------------------------------------------------------------------

NETWORKS = {
    "edsr": lambda: EDSR(features=4, blocks=1),
    "rcan": lambda: RCAN(features=4, groups=1, blocks=1, squeezed=2),
    "swinir": lambda: SwinIR(width=8, depths=(2,), heads=(2,), window=4, features=8),
}
DAMAGE: dict[str, Callable[[torch.Tensor], object]] = {
    "missing": lambda value: MISSING,
    "renamed": lambda value: RENAMED,
    "one axis more": lambda value: value[None],
    "one entry more": lambda value: torch.cat([value, value[:1]]) if value.dim() else value[None],
    "empty": lambda value: value.new_zeros(0),
    "twice as large": lambda value: value.repeat(2, *[1] * (value.dim() - 1)),
    "axes reversed": lambda value: value.permute(*reversed(range(value.dim()))).contiguous(),
    "NaN": lambda value: torch.full_like(value, float("nan")),
    "complex": lambda value: value.to(torch.complex64),
    "no tensor": lambda value: "text",
    "nested": lambda value: {"weight": value},
}
MISSING, RENAMED = object(), object()


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    torch.manual_seed(0)
    return NETWORKS[request.param]()


@pytest.mark.parametrize("layout", ["ours", "safetensors", "pth", "params"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_weights_files_with_one_bad_key(
    damage: str, layout: str, network: Network, tmp_path: Path
) -> None:
    """Each key in turn: an error that names the file, or the very same weights."""
    state = network.state_dict()
    keys = [key for key in state if state[key].is_floating_point()]
    for key in keys if CASES > 10 else keys[:: max(1, len(keys) // 3)]:
        if damage == "axes reversed" and state[key].shape == state[key].shape[::-1]:
            continue  # a square matrix transposed is another network's, and no damage
        bad: dict[str, object] = dict(state)
        value = DAMAGE[damage](bad.pop(key))
        if value is RENAMED:
            bad[f"{key}_"] = state[key]
        elif value is not MISSING:
            bad[key] = value
        path = write(bad, network, layout, tmp_path)
        if path is None:
            return  # safetensors cannot hold it
        same_or_refused(path, network)


@pytest.mark.parametrize("layout", ["ours", "pth"])
def test_weights_files_cut_off(layout: str, network: Network, tmp_path: Path) -> None:
    whole = write(network.state_dict(), network, layout, tmp_path)
    assert whole is not None
    assert same_or_refused(whole, network) or layout == "pth"  # it may not tell res_scale
    content = whole.read_bytes()
    for share in SHARES:
        whole.write_bytes(content[: len(content) * share // 100])
        assert not same_or_refused(whole, network), f"{share} %"


def write(state: Mapping[str, object], network: Network, layout: str, folder: Path) -> Path | None:
    """`state` in a file; None if that format has no way to hold it."""
    if layout in ("pth", "params"):
        torch.save({"params": state} if layout == "params" else state, folder / "net.pth")
        return folder / "net.pth"
    if not all(isinstance(value, torch.Tensor) for value in state.values()):
        return None
    about = {"architecture": network.architecture, "config": network.config, "card": {}}
    metadata = {"fastbg": json.dumps(about)} if layout == "ours" else None
    path = folder / "net.safetensors"
    save_file({key: value.clone() for key, value in state.items()}, path, metadata)  # type: ignore[attr-defined]
    return path


def same_or_refused(path: Path, network: Network) -> bool:
    """Whether the file gives `network`; if not, it must be refused by name."""
    try:
        found = load_model(path).state_dict()
    except CheckpointError as error:
        found, message = {}, str(error)
    if not found:
        assert str(path) in message
        return False
    for key, value in network.state_dict().items():
        assert torch.equal(found[key], value), f"{key} is another"
    return True
