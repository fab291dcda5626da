"""The Gram family: every backend against float64, on every kind of input."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from runnable_backend import runnable

import fastbg
from fastbg.backends.torch_reference import gram as reference
from fastbg.errors import BackendUnavailable, InvalidArgument
from fastbg.registration.dispatch import BACKENDS, Place, unavailable
from fastbg.testing import BackendUnderTest

pytestmark = pytest.mark.usefixtures("poisoned_memory")

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
# Relative to the largest entry: float32 sums, then rounded to the dtype of the result.
ERROR = {torch.float32: 1e-6, torch.float16: 2**-11, torch.bfloat16: 2**-8}
TENSOR_CORES = 1e-5  # float32 as three products of TF32, whose sums are cut off
each_example_is_pure = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=tuple(BACKENDS))
def backend(request: pytest.FixtureRequest) -> BackendUnderTest:
    """Every backend in turn; skips with the reason where one cannot run at all."""
    return runnable(request.param, "gram")


def float32_error(backend: BackendUnderTest) -> float:
    """Error of float32 sums: those of IEEE additions, or of tensor cores."""
    if backend.name == "cuda" or (backend.name == "triton" and backend.device.type == "cuda"):
        return TENSOR_CORES
    return ERROR[torch.float32]


LAYOUTS = ("contiguous", "channels_last", "cropped", "strided", "expanded", "transposed")


def maps(
    rng: np.random.Generator, shape: tuple[int, int, int, int], dtype: torch.dtype, layout: str
) -> torch.Tensor:
    """Random (B,C,H,W) features in one of several memory layouts."""
    height, width = shape[2:]
    value = torch.from_numpy(rng.standard_normal(shape, np.float32)).to(dtype)
    if layout == "channels_last":
        return value.contiguous(memory_format=torch.channels_last)
    if layout == "cropped":
        return torch.nn.functional.pad(value, (1, 2, 3, 4))[..., 3 : 3 + height, 1 : 1 + width]
    if layout == "strided":
        return value.repeat_interleave(2, 1).repeat_interleave(3, 3)[:, ::2, :, ::3]
    if layout == "expanded":
        return value[:1].expand(shape)
    if layout == "transposed":
        return value.transpose(2, 3).contiguous().transpose(2, 3)
    return value


def random_mask(
    rng: np.random.Generator, kind: str, batch: int, height: int, width: int
) -> torch.Tensor | None:
    """Regions (bool), regions that leave most pixels out, or real weights of both signs."""
    if kind == "none":
        return None
    regions = () if kind == "one region" else (int(rng.integers(0, 4)),)
    shape = (batch if rng.random() < 0.7 else 1, *regions, height, width)
    if kind == "weights":
        return torch.from_numpy(rng.standard_normal(shape, np.float32))
    return torch.from_numpy(rng.random(shape) < rng.choice([0.02, 0.5, 1.0]))


MASKS = ("none", "one region", "regions", "weights")


@st.composite
def cases(draw: st.DrawFn, channels: tuple[int, ...]) -> dict[str, torch.Tensor | None]:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    batch, height, width = (draw(st.integers(1, n)) for n in (3, 21, 37))
    shape = (batch, draw(st.sampled_from(channels)), height, width)
    dtype, layout = draw(st.sampled_from(FLOATS)), draw(st.sampled_from(LAYOUTS))
    mask = random_mask(rng, draw(st.sampled_from(MASKS)), batch, height, width)
    return {"maps": maps(rng, shape, dtype, layout), "mask": mask}


def on(value: torch.Tensor | None, device: torch.device) -> torch.Tensor | None:
    return None if value is None else value.to(device)


def doubled(value: torch.Tensor | None) -> torch.Tensor | None:
    return None if value is None else value.double()


def assert_close_to_float64(
    backend: BackendUnderTest, got: torch.Tensor, exact: torch.Tensor, scale: torch.Tensor
) -> None:
    """`scale`: the largest entry that the sum of absolute values has, image by image."""
    allowed = ERROR[got.dtype] + float32_error(backend) - ERROR[torch.float32]
    if backend.name == "triton" and backend.device.type == "cpu" and got.dtype == torch.bfloat16:
        allowed *= 2  # Triton's interpreter truncates to bfloat16; GPUs round
    assert got.shape == exact.shape
    error = (got.cpu().double() - exact).abs()
    # The smallest float16 is no relative error.
    bound = allowed * scale + (2**-24 if got.dtype == torch.float16 else 0.0)
    assert torch.all(error <= bound), f"{(error / scale).max():.3g} of the largest entry"
    assert torch.equal(got, got.mT), "not exactly symmetric"


def largest_sum(features: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Largest entry of the Gram matrices of |features| under |mask|, one per matrix."""
    weights = None if mask is None else mask.double().abs()
    whole = fastbg.gram(features.double().abs(), weights, backend="torch")
    return whole.flatten(-2).amax(-1)[..., None, None]


@given(case=cases(channels=(1, 2, 3, 16, 17, 31, 64, 70, 130)))
@each_example_is_pure
def test_gram_is_near_float64(
    backend: BackendUnderTest, case: dict[str, torch.Tensor | None]
) -> None:
    features, mask = case["maps"], case["mask"]
    got = fastbg.gram(on(features, backend.device), on(mask, backend.device), backend=backend.name)
    assert got.dtype == features.dtype
    assert got.device.type == backend.device.type
    exact = fastbg.gram(features.double(), doubled(mask), backend="torch")
    assert_close_to_float64(backend, got, exact, largest_sum(features, mask))


@given(case=cases(channels=(3,)))
@each_example_is_pure
def test_conv_gram_is_near_float64(
    backend: BackendUnderTest, case: dict[str, torch.Tensor | None]
) -> None:
    images, mask = case["maps"], case["mask"]
    generator = torch.Generator().manual_seed(images.shape[3])
    weight = torch.randn(64, 3, 3, 3, generator=generator).to(images.dtype)
    bias = torch.randn(64, generator=generator).to(images.dtype)
    arguments = [on(v, backend.device) for v in (images, weight, bias, mask)]
    got = fastbg.conv_gram(*arguments, backend=backend.name)
    assert got.dtype == images.dtype
    features = torch.conv2d(images.double(), weight.double(), bias.double(), padding=1).relu()
    exact = fastbg.gram(features, doubled(mask), backend="torch")
    assert_close_to_float64(backend, got, exact, largest_sum(features, mask))


@pytest.mark.parametrize("channels", [1, 64, 200, 512])
def test_long_sums_stay_exact(backend: BackendUnderTest, channels: int) -> None:
    """Sums of one sign over many pixels, where a plain float32 accumulator drifts."""
    generator = torch.Generator().manual_seed(channels)
    interpreted = backend.name in ("triton", "cuda") and backend.device.type == "cpu"
    pixels = 40_003 if channels < 512 else 5_001
    if interpreted:
        pixels = 2_003 if channels < 512 or backend.name == "triton" else 259
    features = torch.rand(1, channels, pixels, generator=generator)
    got = fastbg.gram(features.to(backend.device), backend=backend.name)
    exact = fastbg.gram(features.double(), backend="torch")
    assert_close_to_float64(backend, got, exact, exact.flatten(-2).amax(-1)[..., None, None])


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("channels", [5, 64, 130])
def test_more_than_a_block_in_any_layout(channels: int, masked: bool) -> None:
    """Rows that lie apart, channels as neighbours, every other pixel: read in blocks."""
    if unavailable("gram", "cpu", Place(torch.device("cpu"), torch.float32)) is not None:
        pytest.skip("the compiled CPU module is missing")
    height, width = 37, 53
    generator = torch.Generator().manual_seed(channels)
    whole = torch.randn(2, channels, height + 1, 2 * width, generator=generator)
    mask = torch.rand(2, height, width, generator=generator) if masked else None
    last = whole[:, :, :-1, :width].contiguous(memory_format=torch.channels_last)
    for features in (whole[:, :, 1:, :width], whole[:, :, 1:, ::2], last):
        got = fastbg.gram(features, mask, backend="cpu")
        exact = fastbg.gram(features.double(), doubled(mask), backend="torch")
        error = (got.double() - exact).abs() / largest_sum(features, mask)
        assert error.max() < ERROR[torch.float32]


def test_wide_images(backend: BackendUnderTest) -> None:
    """Rows that are cut, and sizes that leave remainders of every block."""
    weight, bias = torch.randn(64, 3, 3, 3), torch.randn(64)
    for height, width in ((3, 1031), (259, 2), (67, 131), (1, 1)):
        images = torch.rand(1, 3, height, width)
        arguments = [v.to(backend.device) for v in (images, weight, bias)]
        got = fastbg.conv_gram(*arguments, backend=backend.name)
        features = torch.conv2d(images.double(), weight.double(), bias.double(), padding=1).relu()
        exact = fastbg.gram(features, backend="torch")
        assert_close_to_float64(backend, got, exact, largest_sum(features, None))


def test_gram_is_bmm(backend: BackendUnderTest) -> None:
    """(B,C,N) and (B,C,H,W) features, with and without regions, have the shapes documented."""
    features = torch.rand(2, 5, 4, 6, device=backend.device)
    flat = features.flatten(2)
    expected = torch.bmm(flat, flat.mT)
    near = {"rtol": float32_error(backend), "atol": 0.0}
    # A region's sum has the same bits whatever other regions there are, but for PyTorch's products.
    same = near if backend.name == "torch" else {"rtol": 0.0, "atol": 0.0}
    torch.testing.assert_close(fastbg.gram(flat, backend=backend.name), expected, **near)
    torch.testing.assert_close(fastbg.gram(features, backend=backend.name), expected, **near)
    halves = torch.zeros(1, 2, 4, 6, device=backend.device)
    halves[:, 0, :2] = halves[:, 1, 2:] = 1
    for value, mask in ((features, halves), (flat, halves.flatten(2))):
        two = fastbg.gram(value, mask, backend=backend.name)
        assert two.shape == (2, 2, 5, 5)
        torch.testing.assert_close(two.sum(1), expected, **near)
        one = fastbg.gram(value, mask[:, 0], backend=backend.name)
        torch.testing.assert_close(one, two[:, 0], **same)


@pytest.mark.parametrize("shape", [(5, 3, 61, 70), (1, 3, 130, 257)])
def test_sums_do_not_depend_on_threads_or_repetition(shape: tuple[int, ...]) -> None:
    """The same bits for 1 and 2 threads and in every run, with and without regions."""
    if unavailable("gram", "cpu", Place(torch.device("cpu"), torch.float32)) is not None:
        pytest.skip("the compiled CPU module is missing")
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=generator)
    weight, bias = torch.randn(64, 3, 3, 3, generator=generator), torch.randn(64)
    mask = torch.randn((shape[0], 2, *shape[2:]), generator=generator)
    deep = torch.randn(2, 70, 9001, generator=generator)
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 2, 1):
            torch.set_num_threads(count)
            results.append(
                [
                    fastbg.conv_gram(images, weight, bias, backend="cpu"),
                    fastbg.conv_gram(images, weight, bias, mask, backend="cpu"),
                    fastbg.gram(deep, backend="cpu"),
                    fastbg.gram(images, mask, backend="cpu"),
                ]
            )
    finally:
        torch.set_num_threads(threads)
    for again in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], again, strict=True))


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3), (2, 4, 3, 0)])
def test_empty_sums_are_zero(backend: BackendUnderTest, shape: tuple[int, ...]) -> None:
    features = torch.rand(shape, device=backend.device)
    got = fastbg.gram(features, backend=backend.name)
    assert torch.equal(got, torch.zeros(shape[0], 4, 4, device=backend.device))
    mask = torch.zeros(2, 3, 8, 8, device=backend.device)
    got = fastbg.gram(torch.rand(2, 4, 8, 8, device=backend.device), mask, backend=backend.name)
    assert torch.equal(got, torch.zeros(2, 3, 4, 4, device=backend.device))


def test_not_a_number_shows(backend: BackendUnderTest) -> None:
    """ReLU and region masks must not hide a NaN that the sum contains."""
    images = torch.rand(1, 3, 8, 8, device=backend.device)
    images[0, 1, 4, 4] = torch.nan
    weight = torch.ones(64, 3, 3, 3, device=backend.device)
    bias = torch.zeros(64, device=backend.device)
    mask = torch.ones(1, 8, 8, device=backend.device)
    for region in (None, mask):
        assert fastbg.conv_gram(images, weight, bias, region, backend=backend.name).isnan().all()
    got = fastbg.gram(images, mask, backend=backend.name)
    expected = torch.zeros(1, 3, 3, dtype=torch.bool, device=backend.device)
    expected[:, 1] = expected[:, :, 1] = True
    assert torch.equal(got.isnan(), expected)


@pytest.mark.parametrize("kind", [torch.float32, torch.bool])
def test_pixels_without_weight_may_hold_anything(
    backend: BackendUnderTest, kind: torch.dtype
) -> None:
    """The reference summed NaN times 0; no backend's gradient was 0 there."""
    features = torch.rand(1, 5, 4, 6, device=backend.device)
    mask = torch.ones(1, 4, 6, device=backend.device)
    mask[:, 1, 2] = 0
    holey = features.clone()
    holey[..., 1, 2] = torch.tensor([torch.nan, torch.inf, 1, -torch.inf, 0]).to(features)
    found = []
    for value in (features, holey):
        value.requires_grad_()
        result = fastbg.gram(value, mask.to(kind), backend=backend.name)
        found.append((result, *torch.autograd.grad(result.square().sum(), value)))
    for expected, got in zip(*found, strict=True):
        torch.testing.assert_close(got, expected)


class TestAutograd:
    @staticmethod
    def inputs(dtype: torch.dtype) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(0)

        def rand(*shape: int) -> torch.Tensor:
            value = torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
            return value.requires_grad_()

        return {
            "features": rand(2, 3, 4, 5),
            "weight": rand(64, 3, 3, 3),
            "bias": rand(64),
            "mask": rand(2, 4, 5),
            "masks": rand(2, 3, 4, 5),
        }

    @pytest.mark.parametrize("mask", [None, "mask", "masks"])
    def test_gradcheck_of_gram(self, mask: str | None) -> None:
        given = self.inputs(torch.float64)
        arguments = (given["features"], given[mask] if mask else None)
        assert torch.autograd.gradcheck(fastbg.gram, arguments)
        assert torch.autograd.gradgradcheck(fastbg.gram, arguments)

    @pytest.mark.parametrize("mask", [None, "mask", "masks"])
    def test_gradcheck_of_conv_gram(self, mask: str | None) -> None:
        given = self.inputs(torch.float64)
        arguments = (
            given["features"],
            given["weight"],
            given["bias"],
            given[mask] if mask else None,
        )
        assert torch.autograd.gradcheck(fastbg.conv_gram, arguments, fast_mode=True)

    @pytest.mark.parametrize("dtype", FLOATS)
    def test_every_backend_has_the_gradient_of_plain_pytorch(
        self, backend: BackendUnderTest, dtype: torch.dtype
    ) -> None:
        given = self.inputs(dtype)
        upstream = torch.randn(2, 3, 64, 64).to(dtype)
        names = ("features", "weight", "bias", "masks")

        def gradients(sources: list[torch.Tensor], plain: bool) -> list[torch.Tensor]:
            leaves = [s.detach().requires_grad_() for s in sources]
            images, weight, bias, mask = leaves
            if plain:
                f = torch.conv2d(images, weight, bias, padding=1).relu().flatten(2)
                out = torch.einsum("bmp,bip,bjp->bmij", mask.flatten(2), f, f)
            else:
                out = fastbg.conv_gram(images, weight, bias, mask, backend=backend.name)
            return torch.autograd.grad(out, leaves, upstream.to(out))

        got = gradients([given[n].to(backend.device) for n in names], plain=False)
        exact = gradients([given[n].double() for n in names], plain=True)
        for name, g, e in zip(names, got, exact, strict=True):
            assert g.dtype == dtype
            error = (g.cpu().double() - e).abs().max() / e.abs().max()
            # Products of two rounded numbers and, in half types, a rounded upstream gradient.
            assert error <= 4 * ERROR[dtype], f"{name}: {error:.3g}"

    @pytest.mark.parametrize("mask", [None, "masks"])
    def test_opcheck(self, backend: BackendUnderTest, mask: str | None) -> None:
        given = {
            name: value.detach().to(backend.device).requires_grad_()
            for name, value in self.inputs(torch.float32).items()
        }
        weights = given[mask] if mask else None
        torch.library.opcheck(
            torch.ops.fastbg.gram.default, (given["features"], weights, backend.name)
        )
        torch.library.opcheck(
            torch.ops.fastbg.conv_gram.default,
            (given["features"], given["weight"], given["bias"], weights, backend.name),
        )

    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiles_without_a_graph_break(self, dynamic: bool) -> None:
        given = self.inputs(torch.float32)

        def loss(images: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            whole = fastbg.gram(images, mask)
            features = fastbg.conv_gram(images, given["weight"], given["bias"], mask)
            return whole.square().mean() + features.square().mean()

        images, mask = given["features"], given["masks"].detach()
        compiled = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=dynamic)
        got = torch.autograd.grad(compiled(images, mask), images)
        expected = torch.autograd.grad(loss(images, mask), images)
        torch.testing.assert_close(got, expected)


class StyleLoss:
    """The published form: Gram matrices of a net's maps, by bmm, against those of a target."""

    def __init__(self, gram_of: object) -> None:
        self.gram_of = gram_of

    def __call__(self, maps: list[torch.Tensor], targets: list[torch.Tensor]) -> torch.Tensor:
        loss = torch.zeros(())
        for value, target in zip(maps, targets, strict=True):
            flat, wanted = value.flatten(2), target.flatten(2)
            difference = self.gram_of(flat) - self.gram_of(wanted)
            loss = loss + (difference / flat[0].numel()).square().sum()
        return loss


@pytest.mark.parametrize("compiled", [False, True])
def test_style_loss_with_gram_for_bmm_has_the_same_gradients(compiled: bool) -> None:
    """The drop-in: an image optimised through three layers of a net."""
    generator = torch.Generator().manual_seed(5)
    layers = [
        (torch.randn(out, width, 3, 3, generator=generator) / (3 * width**0.5), stride)
        for width, out, stride in ((3, 64, 1), (64, 128, 2), (128, 96, 2))
    ]

    def features(x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for weight, stride in layers:
            x = torch.conv2d(x, weight, padding=1, stride=stride).relu()
            found.append(x)
        return found

    image, style = (torch.rand(2, 3, 24, 32, generator=generator) for _ in "ab")

    def gradient(gram_of: object) -> torch.Tensor:
        def loss(x: torch.Tensor) -> torch.Tensor:
            return StyleLoss(gram_of)(features(x), features(style))

        run = torch.compile(loss, fullgraph=True, backend="aot_eager") if compiled else loss
        x = image.clone().requires_grad_()
        return torch.autograd.grad(run(x), x)[0]

    got, expected = gradient(fastbg.gram), gradient(lambda f: torch.bmm(f, f.transpose(1, 2)))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


class TestBadInput:
    features = torch.rand(2, 3, 8, 8)
    weight, bias = torch.rand(64, 3, 3, 3), torch.rand(64)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"features": torch.rand(8, 8)}, r"features: got shape \(8, 8\); expected shape \(B,"),
            (
                {"features": torch.zeros(1, 2, 3, 4).to_sparse()},
                r"features: got layout torch\.sparse_coo; expected a dense tensor",
            ),
            (
                {"features": torch.zeros(1, 2, 3, 4).to_mkldnn()},
                r"features: got layout torch\._mkldnn; expected a dense tensor",
            ),
            ({"features": [[1.0]]}, "features: got list; expected a torch.Tensor"),
            ({"features": torch.zeros(2, 3, 8, 8).int()}, "features: got torch.int32"),
            ({"mask": [[1.0]]}, "mask: got list; expected a torch.Tensor or None"),
            (
                {"mask": torch.ones(8, 8)},
                r"mask: got shape \(8, 8\); expected shape \(2 or 1, 8, 8\) or \(2 or 1, M, 8, 8\)",
            ),
            ({"mask": torch.ones(2, 8, 9)}, r"mask: got shape \(2, 8, 9\)"),
            ({"mask": torch.ones(3, 8, 8)}, r"mask: got shape \(3, 8, 8\)"),
            ({"mask": torch.ones(2, 8, 8, dtype=torch.complex64)}, "mask: got torch.complex64"),
            ({"mask": torch.ones(2, 8, 8, device="meta")}, "mask: got device meta"),
            ({"features": torch.rand(2, 3, 64), "mask": torch.ones(2, 8, 8)}, r"\(2 or 1, 64\)"),
            ({"backend": "gpu"}, "backend: got 'gpu'; expected one of"),
        ],
    )
    def test_gram_names_the_argument(self, change: dict[str, object], message: str) -> None:
        with pytest.raises(InvalidArgument, match=message):
            fastbg.gram(**{"features": self.features, **change})

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"images": torch.rand(2, 4, 8, 8)}, r"images: got .*; expected shape \(B, 3, H, W\)"),
            ({"images": torch.rand(3, 8, 8)}, r"images: got shape \(3, 8, 8\)"),
            ({"weight": torch.rand(32, 3, 3, 3)}, r"weight: got .* expected shape \(64, 3, 3, 3\)"),
            ({"weight": None}, "weight: got NoneType"),
            ({"bias": torch.rand(3)}, r"bias: got shape \(3,\); expected shape \(64,\)"),
            ({"bias": torch.rand(64).half()}, "bias: got torch.float16; expected images' dtype"),
            ({"bias": torch.rand(64, device="meta")}, "bias: got device meta"),
            ({"mask": torch.ones(2, 4, 4)}, r"mask: got shape \(2, 4, 4\)"),
        ],
    )
    def test_conv_gram_names_the_argument(self, change: dict[str, object], message: str) -> None:
        arguments = {"images": self.features, "weight": self.weight, "bias": self.bias, **change}
        with pytest.raises(InvalidArgument, match=message):
            fastbg.conv_gram(**arguments)

    def test_float64_is_left_to_the_reference(self) -> None:
        features = self.features.double()
        assert fastbg.gram(features).dtype == torch.float64
        with pytest.raises(BackendUnavailable, match="float64 is computed by the torch backend"):
            fastbg.gram(features, backend="cpu")


def test_reference_is_the_definition() -> None:
    """The specification itself, spelled out with einsum."""
    features, mask = torch.randn(2, 7, 5, 6).double(), torch.randn(2, 3, 5, 6).double()
    expected = torch.einsum("bmyx,biyx,bjyx->bmij", mask, features, features)
    torch.testing.assert_close(reference.gram(features, mask), expected)
