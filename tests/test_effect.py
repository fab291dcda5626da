"""Causal effect maps: equal to the public code, exact, seeded, the same in any order."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from effect_cases import WINDOW, photographs, plain_psnr, small_edsr, truth_of
from test_attribution import public_network
from torch import Tensor, nn

import fastbg
from fastbg.attribution import effect
from fastbg.attribution.changed import Change, ChangedWindow
from fastbg.attribution.passes import WindowPasses
from fastbg.errors import InvalidArgument
from fastbg.geometry import Box
from fastbg.models.checkpoints import load_model
from fastbg.models.edsr import EDSR
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN
from fastbg.models.rcan_direct import DirectRCAN
from fastbg.models.swinir import SwinIR


@pytest.fixture
def edsr() -> Network:
    return small_edsr()


GOLDEN = Path(__file__).parent / "golden" / "effect.npz"


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


def test_a_watcher_hears_of_each_part(edsr: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(effect, "COARSE_BLOCKS", 20)
    lr, heard = photographs(), []
    settings = fastbg.CausalEffectMap(edsr, fine=3)
    result = settings.effect(lr, WINDOW, truth_of(lr), watch=lambda *told: heard.append(told))
    coarse = [told[1:] for told in heard if told[0] == "coarse"]
    blocks = int(result.coarse_values[..., 0].isfinite().sum())
    assert [done for done, _ in coarse] == [*range(20, blocks, 20), blocks]
    assert {of for _, of in coarse} == {blocks}
    fine = [told for told in heard if told[0] == "fine"]
    assert fine[-1][1] == fine[-1][2] == len(result.interventions.fine)


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


def test_changes_of_a_block_are_the_same_beside_others() -> None:
    """Whatever other changes are asked for, and with however many more of the same block."""
    network, image = load_model("edsr"), photographs(40, 40)
    passes, box = WindowPasses(network), Box(64, 64, 80, 80)
    window = ChangedWindow(passes, image, box, drop_rounding=True)
    rng = torch.Generator().manual_seed(3)
    boxes = [Box(0, 2, 2, 4), Box(14, 12, 16, 14), Box(30, 20, 32, 22)]
    counts = 5, 14, 3
    changes = [
        [Change(box, torch.rand(3, 2, 2, generator=rng)) for _ in range(count)]
        for box, count in zip(boxes, counts, strict=True)
    ]
    together = torch.cat(list(window.changed([one for some in changes for one in some])))
    alone = torch.cat([part for some in changes for part in window.changed(some)])
    assert together.equal(alone)
    first = torch.cat(list(window.changed(changes[1][:12])))
    assert first.equal(together[5:17])
    whole = torch.cat([network(changed_image(image, one)) for some in changes for one in some])
    error = (together - whole[..., 64:80, 64:80]).abs().max()
    assert error < 3e-6  # of noise; without the drop as well


@pytest.mark.parametrize("name", ["edsr", "rcan"])
def test_dropping_what_is_below_rounding_makes_no_error_much_larger(name: str) -> None:
    """Against float64, for noise in blocks all over a small image."""
    image, box = photographs(40, 40), Box(64, 64, 80, 80)
    net = load_model(name)
    network = DirectRCAN(net, image) if isinstance(net, RCAN) else net
    rng = torch.Generator().manual_seed(5)
    changes = [
        Change(Box(y, x, y + 2, x + 2), torch.rand(3, 2, 2, generator=rng))
        for y in range(0, 39, 6)
        for x in range(0, 39, 6)
    ]
    exact = copy.deepcopy(network).double()
    with torch.no_grad():
        inputs = [changed_image(image, change).double() for change in changes]
        expected = torch.cat([exact.forward_window(x, box) for x in inputs])
        errors = []
        for drop in (False, True):
            window = ChangedWindow(WindowPasses(network), image, box, drop_rounding=drop)
            got = torch.cat(list(window.changed(changes)))
            errors.append(float((got - expected).square().mean().sqrt()))
    assert errors[1] < 1.2 * errors[0]


def changed_image(image: Tensor, change: Change) -> Tensor:
    y0, x0, y1, x1 = change.box
    changed = image.clone()
    changed[..., y0:y1, x0:x1] = change.pixels
    return changed


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


def test_inputs_and_module_stay_what_they_were(edsr: Network) -> None:
    lr = photographs()
    before = lr.clone()
    edsr.train().requires_grad_(True)
    fastbg.CausalEffectMap(edsr, fine=2).effect(lr, WINDOW, truth_of(lr))
    assert lr.equal(before)
    assert edsr.training
    assert all(parameter.requires_grad for parameter in edsr.parameters())


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
