"""Results of causal effect maps: compared, counted, drawn, saved and loaded."""

import copy
import io
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from effect_cases import WINDOW, photographs, small_edsr, truth_of

import fastbg
from fastbg.errors import DataError, InvalidArgument
from fastbg.models.network import Network


@pytest.fixture
def edsr() -> Network:
    return small_edsr()


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


def test_a_map_whose_window_covers_every_block_is_drawn(edsr: Network, tmp_path: Path) -> None:
    lr = photographs()
    whole = torch.tensor([[0, 0, *(edsr.scale * side for side in lr.shape[-2:])]])
    effects = fastbg.CausalEffectMap(edsr, coarse=1, fine=1, include_window=True)
    result = effects.effect(lr, whole, truth_of(lr))
    assert bool(result.own.all())
    result.save(tmp_path / "map.npz")
    for each in (result, fastbg.CausalEffectResult.load(tmp_path / "map.npz")):
        titles = [axes.get_title() for axes in each.plot().axes]
        assert "no blocks outside of the window" in titles


@pytest.mark.parametrize("kind", [fastbg.AttributionResult, fastbg.CausalEffectResult])
def test_a_file_that_says_it_is_huge_is_refused(kind: Any, tmp_path: Path) -> None:
    path, header = tmp_path / "huge.npz", io.BytesIO()
    told = {"descr": "<f4", "fortran_order": False, "shape": (10**13,)}
    np.lib.format.write_array_header_1_0(header, told)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("attribution.npy", header.getvalue())
    with pytest.raises(DataError, match=r"huge\.npz: cannot be read as arrays \(\.npz\): Unable"):
        kind.load(path)


WRONG: dict[str, Any] = {
    "baseline": (np.full(1, np.nan), np.zeros(2), np.zeros((1, 1)), np.array(["a"])),
    "coarse_values": (np.zeros((1, 11, 13, 3), int), np.zeros((1, 13, 11, 3)), np.zeros(4)),
    "fine_values": (np.zeros((1, 11, 12, 2)), np.full((1, 11, 13, 2), np.inf)),
    "own": (np.zeros((1, 11, 13)), np.zeros((1, 12, 13), bool)),
    "images": (np.full((1, 3, 21, 26), 2.0), np.zeros((1, 1, 21, 26)), np.zeros((1, 3, 26, 21))),
    "windows": (np.array([[20, 24, 60]]), np.array([[20, 24, -16]]), np.array([[1.0, 2, 3]])),
    "scale": (np.array(0), np.array([2]), np.array(1)),
    "block": (np.array(0), np.array(2.0), np.array(3)),
    "metric": (np.array("ssim"), np.array(7)),
    "tolerance": (np.array(-1.0), np.array(np.nan), np.array("0.01")),
    "reuse_coarse": (np.array("no"), np.array([True])),
    "interventions_coarse_blocks": (np.zeros((11, 13, 4, 2, 2, 3), np.uint8), np.zeros(3)),
    "interventions_fine_index": (
        *(np.full((1, 2), 99), np.zeros(1)),
        np.zeros((0, 2), dtype="m8[s]"),
    ),
    "interventions_images_sha256": (np.zeros(1), np.array("one"), np.array([["a"]])),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_with_other_fields_are_refused(name: str, edsr: Network, tmp_path: Path) -> None:
    """A field of another type, shape or value, and one that lacks."""
    lr, path = photographs(), tmp_path / "foreign.npz"
    fastbg.CausalEffectMap(edsr, fine=2).effect(lr, WINDOW, truth_of(lr)).save(path)
    with np.load(path) as file:
        arrays = dict(file)
    for wrong in WRONG[name]:
        np.savez(path, **(arrays | {name: wrong}))
        with pytest.raises(DataError, match=r"foreign\.npz: holds no causal effect map \("):
            fastbg.CausalEffectResult.load(path)
    del arrays[name]
    np.savez(path, **arrays)
    with pytest.raises(DataError, match=f"foreign.npz: holds no causal effect map .*{name}"):
        fastbg.CausalEffectResult.load(path)


def test_a_file_names_the_precision(edsr: Network, tmp_path: Path) -> None:
    """Whatever it is when it is loaded. Files from before have none; other names are refused."""
    lr, path = photographs(), tmp_path / "map.npz"
    with fastbg.use_precision("bf16"):
        half = fastbg.CausalEffectMap(edsr, fine=2).effect(lr, WINDOW, truth_of(lr))
    half.save(path)
    assert half.precision == fastbg.CausalEffectResult.load(path).precision == "bf16"
    whole = fastbg.CausalEffectMap(edsr, fine=2).effect(lr, WINDOW, truth_of(lr))
    assert whole.precision == "ieee"
    assert not whole.baseline.equal(half.baseline)
    with np.load(path) as file:
        arrays = dict(file)
    for wrong in (np.array("fp16"), np.array(16), np.array(["bf16"])):
        np.savez(path, **(arrays | {"precision": wrong}))
        with pytest.raises(DataError, match=r"holds no causal effect map .*precision"):
            fastbg.CausalEffectResult.load(path)
    del arrays["precision"]
    np.savez(path, **arrays)
    assert fastbg.CausalEffectResult.load(path).precision == "not recorded"


def test_float64_networks_are_ieee_in_every_precision(edsr: Network) -> None:
    lr = photographs().double()
    with fastbg.use_precision("bf16"):
        result = fastbg.CausalEffectMap(copy.deepcopy(edsr).double(), fine=2).effect(
            lr, WINDOW, truth_of(lr)
        )
    assert result.precision == "ieee"


@pytest.mark.parametrize("windows", [WINDOW, [[0, 0, 8, 10]], [[[0, 0, 8], [2, 4, 8]]]])
def test_every_shape_of_windows_is_loaded(windows: Any, edsr: Network, tmp_path: Path) -> None:
    lr = photographs()
    asked = windows if isinstance(windows, tuple) else torch.tensor(windows)
    result = fastbg.CausalEffectMap(edsr, fine=2).effect(lr, asked, truth_of(lr))
    result.save(tmp_path / "map.npz")
    loaded = fastbg.CausalEffectResult.load(tmp_path / "map.npz")
    assert loaded.windows.equal(result.windows)
    assert loaded.difference(result)[~result.own].eq(0).all()
