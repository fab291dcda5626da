"""Causal effect maps: equal to the public code, exact, seeded, bad input refused by name."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_attribution import public_network
from torch import Tensor, nn

import fastbg
from fastbg.attribution.interventions import FINE, pool_of
from fastbg.errors import DataError, InvalidArgument
from fastbg.models.checkpoints import load_model
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN, ChannelBlock
from fastbg.models.rcan_direct import DirectRCAN
from fastbg.models.swinir import SwinIR

GOLDEN = Path(__file__).parent / "golden" / "effect.npz"
WINDOW = (20, 24, 16)  # of the small images below


class Case:
    """A map of the public code, with what it put into the image."""

    def __init__(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        self.meta: dict[str, Any] = json.loads(str(arrays["meta"]))[name]
        self._name, self._arrays = name, arrays
        y, x = self.meta["roi_yx"]
        self.window = (y, x, self.meta["roi_size"])
        self.lr = torch.from_numpy(self["lr"]).permute(2, 0, 1)[None].float() / 255

    def __getitem__(self, field: str) -> np.ndarray:
        return self._arrays[f"{self._name}/{field}"]

    def truth(self) -> Tensor:
        y, x, size = self.window
        hr = torch.zeros(1, 3, *(4 * side for side in self.lr.shape[-2:]), dtype=torch.uint8)
        window = self["hr_window"] if f"{self._name}/hr_window" in self._arrays else None
        if window is None:
            window = self["hr"][y : y + size, x : x + size]
        hr[0, :, y : y + size, x : x + size] = torch.from_numpy(window).permute(2, 0, 1)
        return hr

    def interventions(self) -> fastbg.Interventions:
        return fastbg.Interventions(self["coarse_blocks"], self["fine_index"], self["fine_blocks"])

    def map_of(self, model: nn.Module) -> fastbg.CausalEffectResult:
        settings = {name: self.meta[name] for name in ("coarse", "fine")}
        effects = fastbg.CausalEffectMap(
            model,
            block=self.meta["block_lr"],
            tolerance=self.meta["tol"],
            include_window=True,
            **settings,
        )
        return effects.effect(self.lr, self.window, self.truth(), self.interventions())


def check_equal(result: fastbg.CausalEffectResult, case: Case) -> None:
    """Tables, effects, counts, range and colours; blocks out of reach have the baseline's PSNR."""
    assert abs(result.baseline.item() - case["psnr_origin"]) < 2e-3
    coarse = result.coarse_values[0].numpy()
    coarse = np.where(np.isnan(coarse), result.baseline.item(), coarse)
    assert np.abs(coarse - case["psnr_coarse"]).max() < 2e-3
    assert np.argwhere(result.affected[0].numpy()).tolist() == case["fine_index"].tolist()
    fine = result.fine_values[0].numpy()[tuple(case["fine_index"].T)]
    assert np.abs(fine - case["psnr_fine"]).max() < 2e-3
    assert np.abs(result.effect[0].numpy() - case["cem"]).max() < 1e-3
    assert [kind.item() for kind in result.counts(public=True)] == case["counts"].tolist()
    public = result.as_published()
    assert abs(public.range.low.item() - case["range"][0]) < 1e-3
    assert abs(public.range.high.item() - case["range"][1]) < 1e-3


@pytest.mark.parametrize("name", ["e", "c", "b"])  # EDSR, SwinIR, RCAN
class TestPublicCode:
    @pytest.fixture
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(GOLDEN) as stored:
            return dict(stored)

    def test_the_map_is_the_public_codes(
        self, name: str, arrays: dict[str, np.ndarray], tmp_path: Path
    ) -> None:
        case = Case(name, arrays)
        model = public_network(case.meta["net"], tmp_path)
        y, x, size = case.window
        sr = model.forward_window(case.lr, (y, x, y + size, x + size))[0]
        assert np.abs(sr.detach().numpy() - case["sr_window"]).max() < 1e-5
        check_equal(case.map_of(model), case)

    def test_what_follows_from_its_tables_is_exact(
        self, name: str, arrays: dict[str, np.ndarray]
    ) -> None:
        case = Case(name, arrays)
        grid = case["cem"].shape
        fine = np.full((*grid, case.meta["fine"]), np.nan)
        fine[tuple(case["fine_index"].T)] = case["psnr_fine"]
        result = fastbg.CausalEffectResult(
            baseline=torch.tensor([case["psnr_origin"].item()], dtype=torch.float64),
            coarse_values=torch.from_numpy(case["psnr_coarse"])[None],
            fine_values=torch.from_numpy(fine)[None],
            own=torch.zeros(1, *grid, dtype=torch.bool),
            images=case.lr,
            windows=torch.tensor([case.window]),
            scale=4,
            block=case.meta["block_lr"],
            metric="psnr",
            tolerance=case.meta["tol"],
            reuse_coarse=False,
            interventions=case.interventions(),
        ).as_published()
        assert np.abs(result.effect[0].numpy() - case["cem"]).max() < 1e-13
        assert [kind.item() for kind in result.counts(public=True)] == case["counts"].tolist()
        extremes = result.range
        assert [extremes.low.item(), extremes.high.item()] == pytest.approx(
            case["range"].tolist(), abs=1e-13
        )
        assert extremes.low_at[0].tolist() == case["argmin"].tolist()
        assert extremes.high_at[0].tolist() == case["argmax"].tolist()
        np.testing.assert_array_equal(result.colours()[0], case["colour_map"])


@pytest.mark.parametrize("name", ["a", "d"])
def test_the_other_maps_of_the_public_code(name: str, shared: Path, tmp_path: Path) -> None:
    """Those that are not shipped; `d` is of a trained network."""
    with np.load(shared / "golden" / "cem_golden.npz") as stored:
        case = Case(name, dict(stored))
    trained = case.meta["net"] == "edsr"
    weights = shared / "golden" / "edsr_c979de2.safetensors"
    model = load_model(weights) if trained else public_network(case.meta["net"], tmp_path)
    check_equal(case.map_of(model), case)


def networks() -> dict[str, Callable[[], nn.Module]]:
    return {
        "edsr": lambda: EDSR(features=8, blocks=2, scale=2),
        "swinir": lambda: SwinIR(width=12, depths=(2,), heads=(2,), window=4, scale=2),
        "rcan": lambda: RCAN(features=8, groups=1, blocks=2, squeezed=2, scale=2),
        "restoration": lambda: EDSR(features=8, blocks=1, scale=1),
        "module": lambda: nn.Sequential(nn.Conv2d(3, 12, 7, padding=3), nn.PixelShuffle(2)),
    }


@pytest.fixture(params=networks())
def model(request: pytest.FixtureRequest) -> nn.Module:
    """Networks that all take another way: native, attention, whole maps, somebody else's."""
    torch.manual_seed(0)
    net = networks()[request.param]().eval().requires_grad_(False)
    if isinstance(net, Network):
        for parameter in net.parameters():
            parameter.mul_(2)  # effects of some size
    return net


@pytest.fixture
def edsr() -> Network:
    torch.manual_seed(0)
    return EDSR(features=8, blocks=1, scale=2).eval().requires_grad_(False)


def photographs(height: int = 21, width: int = 26, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, 3, height, width, generator=generator)


def truth_of(lr: Tensor, scale: int = 2) -> Tensor:
    return lr.repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def plain_psnr(model: nn.Module, lr: Tensor, truth: Tensor, window: tuple[int, int, int]) -> float:
    """As CEM.md's section 2 has it, by a whole pass."""
    y, x, size = window
    sr = model(lr)[0, :, y : y + size, x : x + size]
    levels = (255 * sr.clamp(0, 1)).round().double()
    true = (255 * truth[0, :, y : y + size, x : x + size]).round().double()
    return float(20 * torch.log10(255 / (levels - true).square().mean().sqrt()))


def test_every_effect_is_that_of_whole_passes(model: nn.Module) -> None:
    """A plain loop over blocks of an odd image, its cut blocks too."""
    lr = photographs()
    scale = model(lr).shape[-1] // lr.shape[-1]
    truth, window = truth_of(lr, scale), (5 * scale, 7 * scale, 4 * scale)
    settings = fastbg.CausalEffectMap(model, block=4, coarse=2, fine=3, tolerance=0.005)
    result = settings.effect(lr, window, truth)
    assert result.effect.shape == (1, 6, 7)
    own = torch.zeros(6, 7, dtype=torch.bool)
    own[1:3, 1:3] = True
    assert result.own[0].equal(own)
    assert result.effect[0].isnan().equal(own)
    assert result.standard_error[0].isnan().equal(own)
    before = plain_psnr(model, lr, truth, window)
    assert result.baseline.item() == pytest.approx(before, abs=2e-3)
    drawn = result.interventions
    for i, j in np.argwhere(~own.numpy()):
        values = []
        fine = drawn.fine_of(i, j)
        for patch in drawn.coarse[i, j] if fine is None else fine:
            changed = lr.clone()
            place = changed[0, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            place[:] = (
                torch.from_numpy(patch).permute(2, 0, 1)[:, : place.shape[1], : place.shape[2]]
                / 255
            )
            values.append(plain_psnr(model, changed, truth, window))
        effect = before - np.mean(values)
        expected = effect if abs(effect) >= 0.005 else 0.0
        assert result.effect[0, i, j].item() == pytest.approx(expected, abs=2e-3)
        error = np.std(values, ddof=1) / np.sqrt(len(values))
        assert result.standard_error[0, i, j].item() == pytest.approx(error, abs=2e-3)
    assert 0 < len(drawn.fine_index) <= 38


def test_nothing_depends_on_order_or_batch(edsr: Network) -> None:
    lr = photographs(count=2)
    windows = torch.tensor([[(4, 6, 12), (20, 24, 16)], [(8, 8, 8), (0, 0, 10)]])
    many = fastbg.CausalEffectMap(edsr, fine=4, tolerance=0.001).effect(lr, windows, truth_of(lr))
    assert many.effect.shape == (2, 2, 11, 13)
    one = fastbg.CausalEffectMap(edsr, fine=4, tolerance=0.001, batch=1).effect(
        lr[1:], (0, 0, 10), truth_of(lr[1:])
    )
    torch.testing.assert_close(many.effect[1, 1], one.effect[0], rtol=0, atol=1e-3, equal_nan=True)
    index = {tuple(place) for place in many.interventions.fine_index.tolist()}
    assert {tuple(place) for place in one.interventions.fine_index.tolist()} <= index
    place = one.interventions.fine_index[0]
    np.testing.assert_array_equal(
        many.interventions.fine_of(*place), one.interventions.fine_of(*place)
    )


def test_blocks_that_the_window_cannot_depend_on_are_exactly_0_and_cost_nothing(
    edsr: Network,
) -> None:
    lr = photographs(60, 60)
    result = fastbg.CausalEffectMap(edsr, fine=2, tolerance=0).effect(lr, (56, 56, 8), truth_of(lr))
    y0, x0, y1, x1 = edsr.reach((56, 56, 64, 64), 60, 60)
    in_reach = torch.zeros(30, 30, dtype=torch.bool)
    in_reach[y0 // 2 : -(-y1 // 2), x0 // 2 : -(-x1 // 2)] = True
    assert (result.samples[0] > 0).equal(in_reach & ~result.own[0])
    assert (result.effect[0][~in_reach] == 0).all()
    assert (result.standard_error[0][~in_reach] == 0).all()


def test_two_networks_under_the_same_interventions(edsr: Network, tmp_path: Path) -> None:
    lr = photographs()
    truth = truth_of(lr)
    first = fastbg.CausalEffectMap(edsr, fine=4, seed=7).effect(lr, WINDOW, truth)
    first.interventions.save(tmp_path / "set.npz")
    loaded = fastbg.Interventions.load(tmp_path / "set.npz")
    assert loaded.images == first.interventions.images
    again = fastbg.CausalEffectMap(edsr, fine=4, seed=0).effect(lr, WINDOW, truth, loaded)
    torch.testing.assert_close(again.effect, first.effect, rtol=0, atol=0, equal_nan=True)
    drawn_anew = fastbg.CausalEffectMap(edsr, fine=4, seed=0).effect(lr, WINDOW, truth)
    assert not drawn_anew.effect.nan_to_num().equal(first.effect.nan_to_num())
    with pytest.raises(InvalidArgument, match=r"interventions: .*for images"):
        fastbg.CausalEffectMap(edsr, fine=4).effect(1 - lr, WINDOW, truth, loaded)


def test_missing_fine_samples_are_drawn_anew(edsr: Network) -> None:
    lr = photographs()
    settings = fastbg.CausalEffectMap(edsr, fine=4)
    whole = settings.effect(lr, WINDOW, truth_of(lr))
    full = whole.interventions
    half = fastbg.Interventions(full.coarse, full.fine_index[::2], full.fine[::2])
    again = settings.effect(lr, WINDOW, truth_of(lr), half)
    np.testing.assert_array_equal(again.interventions.fine_index, full.fine_index)
    np.testing.assert_array_equal(again.interventions.fine, full.fine)


def test_the_figure_of_each_of_several_windows_of_several_images(edsr: Network) -> None:
    lr = photographs(count=2)
    windows = torch.tensor([[(4, 6, 12), (20, 24, 16)], [(8, 8, 8), (0, 0, 10)]])
    result = fastbg.CausalEffectMap(edsr, fine=1, block=8, metric="change").effect(lr, windows)
    lam = fastbg.LocalAttribution(edsr).attribute(lr, windows, n_steps=1)

    def corner(index: int | tuple[int, ...]) -> tuple[float, float]:
        frame = result.plot(index).axes[0].patches[0]
        return frame.get_y() + 0.5, frame.get_x() + 0.5

    assert [corner(n) for n in range(4)] == [(4, 6), (20, 24), (8, 8), (0, 0)]
    assert corner((1, 0)) == (8, 8)
    assert corner(-1) == (0, 0)
    assert lam.plot(3).axes
    for index in (4, -5, (0,), (0, 2)):
        for each in (result, lam):
            with pytest.raises(InvalidArgument, match="index: got"):
                each.plot(index)


def test_the_windows_blocks_have_effects_but_no_part_in_the_sums(edsr: Network) -> None:
    lr = photographs()
    without, measured = (
        fastbg.CausalEffectMap(edsr, fine=2, include_window=asked).effect(lr, WINDOW, truth_of(lr))
        for asked in (False, True)
    )
    own = measured.own
    assert without.effect[own].isnan().all()
    assert not without.samples[own].any()
    assert measured.effect[own].isfinite().all()
    assert measured.effect[own].any()
    assert measured.samples[own].min() > 0
    assert measured.standard_error[own].isfinite().all()
    sums = (
        lambda r: torch.stack(r.counts()),
        lambda r: torch.stack([r.range.low, r.range.high]),
        lambda r: r.share((20, 24, 40, 44)),
        lambda r: r.difference(r).isnan(),
        lambda r: torch.from_numpy(r.colours()),
    )
    for of in sums:
        assert of(measured).equal(of(without))
    assert measured.counts(public=True).help > measured.counts().help


class TestDifference:
    @pytest.mark.parametrize(
        ("change", "told"),
        [
            (lambda r: {"images": 1 - r.images}, "other images"),
            (lambda r: {"windows": r.windows + 2}, "other windows"),
            (lambda r: {"scale": 4}, "scale 4"),
            (lambda r: {"metric": "mse"}, "metric mse"),
            (lambda r: {"fine_values": r.fine_values[..., :1]}, "1 fine replacements"),
            (lambda r: {"interventions": altered(r, "coarse")}, "other interventions"),
            (lambda r: {"interventions": altered(r, "fine")}, "other interventions"),
        ],
    )
    def test_what_cannot_be_compared_is_refused(
        self, change: Callable[[Any], dict[str, Any]], told: str, edsr: Network
    ) -> None:
        lr = photographs()
        result = fastbg.CausalEffectMap(edsr, fine=2).effect(lr, WINDOW, truth_of(lr))
        assert result.difference(result)[~result.own].eq(0).all()
        with pytest.raises(InvalidArgument, match=f"other: got a map of {told}"):
            result.difference(replace(result, **change(result)))
        with pytest.raises(InvalidArgument, match="other: got str"):
            result.difference("map.npz")

    def test_fine_ones_of_one_map_alone_do_not_count(self, edsr: Network) -> None:
        lr = photographs()
        result = fastbg.CausalEffectMap(edsr, fine=2).effect(lr, WINDOW, truth_of(lr))
        all_ = result.interventions
        few = fastbg.Interventions(all_.coarse, all_.fine_index[::2], all_.fine[::2])
        assert result.difference(replace(result, interventions=few))[~result.own].eq(0).all()


def altered(result: fastbg.CausalEffectResult, field: str) -> fastbg.Interventions:
    values = getattr(result.interventions, field)
    return replace(result.interventions, **{field: 255 - values})


def test_what_progress_has_is_kept_with_its_interventions(edsr: Network) -> None:
    lr, progress = photographs(), {}
    settings = fastbg.CausalEffectMap(edsr, fine=2)
    first, second = (settings.effect(lr, WINDOW, truth_of(lr), progress=progress) for _ in range(2))
    assert len(first.interventions.fine) == first.affected.sum() > 0
    np.testing.assert_array_equal(second.interventions.fine_index, first.interventions.fine_index)
    np.testing.assert_array_equal(second.interventions.fine, first.interventions.fine)


class TestAccuracy:
    def test_rounds_stop_when_the_error_is_small_enough(self, edsr: Network) -> None:
        lr = photographs()
        settings = fastbg.CausalEffectMap(edsr, fine=50)
        whole = settings.effect(lr, WINDOW, truth_of(lr))
        few = settings.effect(lr, WINDOW, truth_of(lr), accuracy="published")
        assert few.affected.equal(whole.affected)
        used = few.samples[few.affected]
        assert used.min() >= 6
        assert used.float().mean() < 50
        assert set((used % 6).tolist()) <= {0, 50 % 6}
        target = torch.clamp(0.1 * few.mean_effect.abs(), min=0.0025)
        stopped = few.affected & (few.samples < 50)
        assert bool((few.standard_error <= target)[stopped].all())
        # The draws are the first ones of the whole set.
        drawn = ~few.fine_values.isnan()
        torch.testing.assert_close(
            few.fine_values[drawn], whole.fine_values[drawn], rtol=0, atol=2e-3
        )

    def test_coarse_samples_may_be_used_too(self, edsr: Network) -> None:
        lr = photographs()
        settings = fastbg.CausalEffectMap(edsr, fine=5, reuse_coarse=True)
        result = settings.effect(lr, WINDOW, truth_of(lr))
        assert set(result.samples[result.affected].tolist()) == {8}
        values = torch.cat([result.coarse_values, result.fine_values], -1)[result.affected]
        expected = result.baseline - values.mean(-1)
        torch.testing.assert_close(result.mean_effect[result.affected], expected)


@pytest.mark.parametrize("metric", ["mse", "change"])
def test_other_metrics(metric: str, edsr: Network) -> None:
    lr = photographs()
    y, x, size = WINDOW
    settings = fastbg.CausalEffectMap(edsr, fine=2, metric=metric, include_window=True)
    result = settings.effect(lr, WINDOW, truth_of(lr) if metric == "mse" else None)
    i, j = y // 4, x // 4
    changed = lr.clone()
    patch = torch.from_numpy(result.interventions.coarse[i, j, 0]).permute(2, 0, 1) / 255
    changed[0, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = patch
    sr, other = (edsr(image)[..., y : y + size, x : x + size] for image in (lr, changed))
    if metric == "change":
        expected = 255 * (other - sr).square().mean().sqrt()
        assert result.baseline.item() == 0
    else:
        true = (255 * truth_of(lr)[..., y : y + size, x : x + size]).round()
        expected = ((255 * other.clamp(0, 1)).round() - true).square().mean()
    assert result.coarse_values[0, i, j, 0].item() == pytest.approx(expected.item(), rel=1e-3)
    assert result.effect[0, i, j] > 0


class TestProgress:
    def test_a_stopped_map_goes_on_where_it_was(self, edsr: Network) -> None:
        lr = photographs()
        settings = fastbg.CausalEffectMap(edsr, fine=4)
        kept: dict[str, np.ndarray] = {}
        whole = settings.effect(lr, WINDOW, truth_of(lr), progress=kept)
        assert len(kept) == 3
        del kept[next(reversed(kept))]
        del kept["0 0 coarse 0"]
        calls = 0
        plain = edsr.forward_window

        def counted(x: Tensor, window: Any) -> Tensor:
            nonlocal calls
            calls += len(x)
            return plain(x, window)

        edsr.forward_window = counted
        again = settings.effect(lr, WINDOW, truth_of(lr), progress=kept)
        assert calls < 64 * 3 + 16 * 4 + 2
        torch.testing.assert_close(again.effect, whole.effect, rtol=0, atol=1e-3, equal_nan=True)

    def test_of_other_arguments_is_refused(self, edsr: Network) -> None:
        lr = photographs()
        kept = {"0 0 coarse 0": np.zeros((3, 3))}
        with pytest.raises(InvalidArgument, match="progress"):
            fastbg.CausalEffectMap(edsr, fine=4).effect(lr, WINDOW, truth_of(lr), progress=kept)


class TestResult:
    @pytest.fixture
    def result(self, edsr: Network) -> fastbg.CausalEffectResult:
        lr = photographs(count=2)
        settings = fastbg.CausalEffectMap(edsr, block=4, fine=3, tolerance=0.001)
        return settings.effect(lr, WINDOW, truth_of(lr))

    def test_counts_leave_the_windows_blocks_out(self, result: fastbg.CausalEffectResult) -> None:
        harm, helps, idle = result.counts()
        assert (harm + helps + idle).tolist() == (~result.own).sum((1, 2)).tolist()
        assert harm.tolist() == (result.effect < 0).sum((1, 2)).tolist()
        assert helps.tolist() == (result.effect > 0).sum((1, 2)).tolist()

    def test_public_counts_need_blocks_that_the_window_cuts(
        self, result: fastbg.CausalEffectResult, edsr: Network
    ) -> None:
        with pytest.raises(InvalidArgument, match="include_window"):
            result.counts(public=True)
        lr = photographs()
        aligned = fastbg.CausalEffectMap(edsr, block=4, fine=3).effect(lr, (8, 8, 16), truth_of(lr))
        public, ours = aligned.counts(public=True), aligned.counts()
        assert public.help == ours.help + 4
        assert (public.harm, public.idle) == (ours.harm, ours.idle)

    def test_shares_add_up(self, result: fastbg.CausalEffectResult) -> None:
        """The image is no multiple of the block: the last ones are narrower."""
        whole = (0, 0, 42, 52)
        halves = torch.tensor([(0, 0, 42, 20), (0, 20, 42, 52), (0, 48, 42, 52)])
        assert result.share(whole).tolist() == pytest.approx([1, 1])
        left, right, last = result.share(halves).T
        assert (left + right).tolist() == pytest.approx([1, 1])
        effect = result.effect.nan_to_num().abs()
        expected = effect[:, :, 6].sum(1) / effect.sum((1, 2))
        assert last.tolist() == pytest.approx(expected.tolist())

    def test_decided_effects_are_two_errors_from_0(self, result: fastbg.CausalEffectResult) -> None:
        expected = result.effect.abs() > 2 * result.standard_error
        assert result.decided.equal(expected)
        assert result.decided.any()
        assert not result.decided[result.own].any()

    def test_colours_have_the_images_size(self, result: fastbg.CausalEffectResult) -> None:
        colours = result.colours()
        assert colours.shape == (2, 42, 52, 3)
        assert colours[0, 25, 30].tolist() == [127, 0, 0]  # the window, as the largest effect

    def test_the_figure_is_drawn(self, result: fastbg.CausalEffectResult, tmp_path: Path) -> None:
        result.plot(1).savefig(tmp_path / "map.png")
        assert (tmp_path / "map.png").stat().st_size > 5_000

    def test_a_file_holds_all_of_it(
        self, result: fastbg.CausalEffectResult, tmp_path: Path
    ) -> None:
        result.save(tmp_path / "map.npz")
        loaded = fastbg.CausalEffectResult.load(tmp_path / "map.npz")
        torch.testing.assert_close(loaded.effect, result.effect, rtol=0, atol=0, equal_nan=True)
        np.testing.assert_array_equal(loaded.colours(), result.colours())
        assert loaded.metric == "psnr"
        assert loaded.counts().harm.equal(result.counts().harm)
        np.testing.assert_array_equal(loaded.interventions.fine, result.interventions.fine)
        (tmp_path / "no.npz").write_text("no map")
        with pytest.raises(DataError, match=r"no\.npz: cannot be read as arrays"):
            fastbg.CausalEffectResult.load(tmp_path / "no.npz")


class TestPatches:
    def test_draws_are_the_same_whatever_was_drawn_before(self) -> None:
        pool = pool_of(None, 2, 4, seed=3)
        first = pool.draw(5, 6, FINE, 50, 2)
        pool.draw(0, 0, FINE, 7, 2)
        np.testing.assert_array_equal(pool.draw(5, 6, FINE, 50, 2), first)
        np.testing.assert_array_equal(pool.draw(5, 6, FINE, 6, 2).shape, (6, 2, 2, 3))
        assert not np.array_equal(pool.draw(6, 5, FINE, 50, 2), first)
        assert not np.array_equal(pool_of(None, 2, 4, seed=4).draw(5, 6, FINE, 50, 2), first)

    def test_an_array_and_a_folder(self, tmp_path: Path, edsr: Network) -> None:
        from PIL import Image

        black = np.zeros((4, 3, 3, 3), np.uint8)
        Image.fromarray(np.full((5, 7, 3), 9, np.uint8)).save(tmp_path / "nine.png")
        lr = photographs()
        for patches, level in ((black, 0), (tmp_path, 9)):
            settings = fastbg.CausalEffectMap(edsr, patches=patches, fine=2)
            result = settings.effect(lr, WINDOW, truth_of(lr))
            assert np.unique(result.interventions.coarse).tolist() == [level]

    def test_published_patches_have_opencvs_weights(self) -> None:
        """8 to 2: (-3, 19, 19, -3) / 32 on each half; red and blue change places with `bgr`."""
        ramp = np.zeros((1, 8, 8, 3), np.uint8)
        ramp[0, :, :, 0] = np.array([10, 20, 40, 80, 90, 100, 130, 170])
        small = fastbg.published_patches(ramp, 2)
        first = np.floor((-3 * 10 + 19 * 20 + 19 * 40 - 3 * 80) / 32 + 0.5)
        second = np.floor((-3 * 90 + 19 * 100 + 19 * 130 - 3 * 170) / 32 + 0.5)
        assert small[0, :, :, 0].tolist() == [[first, second]] * 2
        assert fastbg.published_patches(ramp, 2, bgr=True)[0, 0, 0].tolist() == [0, 0, first]
        row = fastbg.published_patches(ramp, 4)[0, 0, :, 0]
        assert row[0] == np.floor((16 * 10 + 19 * 20 - 3 * 40) / 32 + 0.5)
        assert row[1] == np.floor((-3 * 20 + 19 * 40 + 19 * 80 - 3 * 90) / 32 + 0.5)


def test_inputs_and_module_stay_what_they_were(edsr: Network) -> None:
    lr = photographs()
    before = lr.clone()
    edsr.train().requires_grad_(True)
    fastbg.CausalEffectMap(edsr, fine=2).effect(lr, WINDOW, truth_of(lr))
    assert lr.equal(before)
    assert edsr.training
    assert all(parameter.requires_grad for parameter in edsr.parameters())


class Broken(nn.Module):
    """Answers NaN where the image is black somewhere."""

    scale = 1

    def forward(self, x: Tensor) -> Tensor:
        return torch.where(x.amin() == 0, torch.nan, x)


BLACK = np.zeros((1, 2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("argument", "settings", "call"),
    [
        ("model", {"model": "edsr"}, {}),
        ("block", {"block": 0}, {}),
        ("coarse", {"coarse": 0}, {}),
        ("fine", {"fine": 2.5}, {}),
        ("seed", {"seed": -1}, {}),
        ("tolerance", {"tolerance": float("nan")}, {}),
        ("metric", {"metric": "ssim"}, {}),
        ("batch", {"batch": 0}, {}),
        ("patches", {"patches": BLACK, "block": 3}, {}),
        ("patches", {"patches": BLACK[..., 0]}, {}),
        ("patches", {"patches": np.zeros((0, 2, 2, 3), np.uint8)}, {}),
        ("patches", {"patches": "no/such/folder"}, {}),
        ("patches", {"patches": 7}, {}),
        ("images", {}, {"images": torch.zeros(0, 3, 8, 8)}),
        ("images", {}, {"images": torch.full((1, 3, 21, 26), 128.0)}),
        ("windows", {}, {"windows": (40, 40, 16)}),
        ("windows", {}, {"windows": (1.5, 2, 3)}),
        ("windows", {"block": 26}, {}),
        ("tolerance", {"tolerance": "much"}, {}),
        ("batch", {"batch": 2.5}, {}),
        ("interventions", {}, {"interventions": "set.npz"}),
        ("truth", {}, {"truth": None}),
        ("truth", {}, {"truth": torch.rand(1, 3, 21, 26)}),
        ("truth", {}, {"truth": torch.full((1, 3, 42, 52), 255.0)}),
        ("truth", {}, {"truth": torch.full((1, 3, 42, 52), torch.nan)}),
        ("truth", {}, {"truth": torch.zeros((1, 3, 42, 52), dtype=torch.int64)}),
        ("accuracy", {}, {"accuracy": "high"}),
        ("accuracy", {"metric": "mse"}, {"accuracy": "published"}),
    ],
)
def test_bad_input_is_refused_by_name(
    argument: str, settings: dict[str, Any], call: dict[str, Any], edsr: Network
) -> None:
    lr = photographs()
    given = {"images": lr, "windows": WINDOW, "truth": truth_of(lr), **call}
    with pytest.raises(InvalidArgument) as error:
        fastbg.CausalEffectMap(**{"model": edsr, "fine": 2, **settings}).effect(**given)
    assert error.value.argument == argument


def test_an_infinite_psnr_is_refused(edsr: Network) -> None:
    lr = photographs()
    truth = (255 * edsr(lr).clamp(0, 1)).round().byte()
    with pytest.raises(
        InvalidArgument, match=r"windows: got the box \(20, 24, 36, 40\).*metric='mse'"
    ):
        fastbg.CausalEffectMap(edsr, fine=2).effect(lr, WINDOW, truth)
    result = fastbg.CausalEffectMap(edsr, fine=2, metric="mse").effect(lr, WINDOW, truth)
    assert result.baseline.item() == 0
    assert (result.effect.nan_to_num() >= 0).all()


def test_a_network_that_answers_nan_under_an_intervention_is_refused() -> None:
    lr = photographs().clamp(0.1, 1)
    settings = fastbg.CausalEffectMap(Broken(), patches=BLACK, fine=2)
    with pytest.raises(InvalidArgument, match="model: got an SR window that is NaN"):
        settings.effect(lr, (4, 4, 8), lr / 2)


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("interventions.coarse", lambda s: (s.coarse[:, :-1], s.fine_index[:0], s.fine[:0])),
        ("interventions.coarse", lambda s: (s.coarse[:, :, :2], s.fine_index, s.fine)),
        ("interventions.coarse", lambda s: (s.coarse / 255, s.fine_index, s.fine)),
        ("interventions.fine_index", lambda s: (s.coarse, [(0, 0)], s.fine)),
        ("interventions.fine", lambda s: (s.coarse, s.fine_index, s.fine[:, :1])),
        ("interventions.fine", lambda s: (s.coarse, s.fine_index, s.fine[..., :1])),
        ("interventions.fine_index", lambda s: (s.coarse, s.fine_index[:-1], s.fine)),
        ("interventions.fine_index", lambda s: (s.coarse, s.fine_index + 9, s.fine)),
        ("interventions.fine_index", lambda s: (s.coarse, s.fine_index * 0, s.fine)),
    ],
)
def test_interventions_of_another_shape_are_refused(
    field: str, change: Callable[[fastbg.Interventions], tuple[Any, ...]], edsr: Network
) -> None:
    lr = photographs()
    settings = fastbg.CausalEffectMap(edsr, fine=2)
    drawn = settings.effect(lr, WINDOW, truth_of(lr)).interventions
    with pytest.raises(InvalidArgument) as error:
        settings.effect(lr, WINDOW, truth_of(lr), fastbg.Interventions(*change(drawn)))
    assert error.value.argument == field


def test_a_file_that_holds_no_interventions_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.npz").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"no.npz: cannot be read as arrays"):
        fastbg.Interventions.load(tmp_path / "no.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="no interventions"):
        fastbg.Interventions.load(tmp_path / "other.npz")


@pytest.mark.parametrize("kind", [fastbg.Interventions, fastbg.CausalEffectResult])
def test_damaged_files_are_refused_by_name(kind: Any, edsr: Network, tmp_path: Path) -> None:
    lr, path = photographs(), tmp_path / "damaged.npz"
    result = fastbg.CausalEffectMap(edsr, fine=2).effect(lr, WINDOW, truth_of(lr))
    (result if kind is fastbg.CausalEffectResult else result.interventions).save(path)
    whole = path.read_bytes()
    middle = bytearray(whole)
    middle[60:400] = bytes(340)
    for damaged in (b"PK\x03\x04garbage", whole[: len(whole) // 2], bytes(middle)):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=r"damaged\.npz: cannot be read as arrays"):
            kind.load(path)
    np.save(tmp_path / "array.npy", np.zeros(3))
    with pytest.raises(DataError, match=r"array\.npy: cannot be read as arrays"):
        kind.load(tmp_path / "array.npy")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match=r"other\.npz: holds no"):
        kind.load(tmp_path / "other.npz")


def test_a_window_may_be_a_box(edsr: Network) -> None:
    lr = photographs()
    settings = fastbg.CausalEffectMap(edsr, fine=2, block=4)
    square, box = (
        settings.effect(lr, window, truth_of(lr)) for window in ((16, 24, 16), (16, 24, 32, 40))
    )
    torch.testing.assert_close(box.effect, square.effect, rtol=0, atol=0, equal_nan=True)
    assert box.counts(public=True).help == square.counts(public=True).help
    wide = settings.effect(lr, (16, 16, 32, 48), truth_of(lr))
    assert wide.own.sum() == 8


class TestRcan:
    """All paths, and those that do not go through the means of the whole map."""

    @pytest.fixture
    def rcan(self) -> RCAN:
        torch.manual_seed(0)
        net = RCAN(features=8, groups=2, blocks=2, squeezed=2, scale=2, res_scale=0.7)
        for parameter in net.parameters():
            parameter.data *= 1.5
        return net.eval().requires_grad_(False)

    def test_with_its_own_weights_an_image_is_what_it_was(self, rcan: RCAN) -> None:
        lr = photographs()
        direct = DirectRCAN(rcan, lr)
        torch.testing.assert_close(direct(lr), rcan(lr), rtol=0, atol=1e-5)
        window = (10, 12, 30, 36)
        whole = direct(lr)[..., 10:30, 12:36]
        torch.testing.assert_close(direct.forward_window(lr, window), whole, rtol=0, atol=1e-5)

    def test_a_change_acts_through_convolutions_alone(self, rcan: RCAN) -> None:
        """Against the modules, whose attention is replaced by what it was for the first image."""
        lr = photographs()
        direct = DirectRCAN(rcan, lr)
        other = lr.clone()
        other[..., 3:9, 4:8] = 0.9
        blocks = [module for module in rcan.modules() if isinstance(module, ChannelBlock)]
        weights = []
        for block in blocks:
            block.register_forward_pre_hook(
                lambda b, x: weights.append(b.attention(b.residue(x[0])))
            )
        rcan(lr)
        assert len(weights) == 4
        for block, weight in zip(blocks, list(weights), strict=True):
            block.attention = lambda _, weight=weight: weight
        expected = rcan(other)
        torch.testing.assert_close(direct(other), expected, rtol=0, atol=1e-5)
        reach = direct.reach((0, 0, 4, 4), 21, 26)
        assert reach == (0, 0, 16, 16)

    @pytest.mark.parametrize("part", ["", "body.0", "body.1.blocks.0", "conv_last", "upsample.0"])
    def test_a_hook_is_refused(self, rcan: RCAN, part: str) -> None:
        """Direct paths would pass it by, and count a group that a hook has removed."""
        lr = photographs()
        handle = rcan.get_submodule(part).register_forward_hook(lambda m, x, y: y)
        with pytest.raises(InvalidArgument, match=r"^model: .*rcan with hooks or other modules"):
            DirectRCAN(rcan, lr)
        handle.remove()
        assert DirectRCAN(rcan, lr)(lr).isfinite().all()

    def test_another_module_is_refused(self, rcan: RCAN) -> None:
        rcan.body[1].blocks[0].squeeze = nn.Identity()
        with pytest.raises(InvalidArgument, match="with hooks or other modules"):
            DirectRCAN(rcan, photographs())

    def test_without_native_calls_no_window_is_kept(self, rcan: RCAN) -> None:
        lr = photographs()
        assert DirectRCAN(rcan, lr).keep_window(lr, (4, 4, 8, 8)) is not None
        rcan.native = False
        assert DirectRCAN(rcan, lr).keep_window(lr, (4, 4, 8, 8)) is None

    def test_weights_take_the_precision_that_is_asked_of_fastbg(self, rcan: RCAN) -> None:
        lr = photographs()

        def weights() -> Tensor:
            return torch.cat([p.flatten() for p in DirectRCAN(rcan, lr).parameters()])

        plain = weights()
        with torch.autocast("cpu", torch.bfloat16):
            assert weights().equal(plain)
        with fastbg.use_precision("bf16"):
            lower = weights()
            with torch.autocast("cpu", torch.float16):
                assert weights().equal(lower)
        assert lower.dtype == torch.float32
        assert 0 < (lower - plain).abs().max() < 0.02 * plain.abs().max()

    def test_the_callers_random_numbers_stay(self, rcan: RCAN) -> None:
        before = torch.get_rng_state()
        DirectRCAN(rcan, photographs())
        assert torch.get_rng_state().equal(before)

    def test_direct_effects_and_the_rest(self, rcan: RCAN) -> None:
        lr = photographs(40, 44)
        truth, window = truth_of(lr), (8, 8, 8)
        settings = {"block": 4, "fine": 3, "metric": "change", "tolerance": 1e-6}
        total = fastbg.CausalEffectMap(rcan, **settings).effect(lr, window)
        direct = fastbg.CausalEffectMap(rcan, paths="direct", **settings).effect(lr, window)
        far = direct.effect[0] == 0
        assert far[-1].all()
        assert (total.effect[0][-1] > 0).all()
        rest = total.difference(direct)[0]
        assert rest.isnan().equal(total.own[0])
        values = torch.cat([total.coarse_values, total.fine_values], -1)[0]
        torch.testing.assert_close(rest[far], values[far].nanmean(-1))
        psnr = fastbg.CausalEffectMap(rcan, block=4, fine=3, seed=1).effect(lr, window, truth)
        with pytest.raises(InvalidArgument, match="other"):
            total.difference(psnr)

    def test_native_and_pytorch_agree(self, rcan: RCAN, monkeypatch: pytest.MonkeyPatch) -> None:
        lr = photographs()
        settings = fastbg.CausalEffectMap(rcan, fine=2, paths="direct")
        native = settings.effect(lr, WINDOW, truth_of(lr))
        monkeypatch.setenv("FASTBG_BACKEND", "torch")
        plain = settings.effect(lr, WINDOW, truth_of(lr))
        torch.testing.assert_close(native.effect, plain.effect, rtol=0, atol=1e-3, equal_nan=True)

    def test_local_means_have_no_weights_to_hold_fast(self, rcan: RCAN, edsr: Network) -> None:
        rcan.pool_over(8)
        lr = photographs()
        with pytest.raises(InvalidArgument, match="model: got RCAN with means over 8"):
            fastbg.CausalEffectMap(rcan, paths="direct").effect(lr, WINDOW, truth_of(lr))
        with pytest.raises(InvalidArgument, match="paths"):
            fastbg.CausalEffectMap(edsr, paths="direct")
