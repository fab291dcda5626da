"""Regression estimates of causal effects: exact where a line is, unbiased, with honest errors."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from effect_cases import WINDOW, photographs, small_edsr, truth_of

import fastbg
from fastbg.attribution.regression import LEAST, Mean, Regression, is_enough, plain_mean, rounds
from fastbg.errors import DataError

RNG = np.random.default_rng(0)
IMAGE = RNG.random((7, 9, 3))
COARSE = RNG.integers(0, 256, (4, 5, 30, 2, 2, 3), np.uint8)


def features(place: tuple[int, int], drawn: np.ndarray) -> tuple[np.ndarray, ...]:
    """Change of mean luma, RMS change, slopes of luma of each replacement, pixel by pixel."""
    block = IMAGE[2 * place[0] : 2 * place[0] + 2, 2 * place[1] : 2 * place[1] + 2]
    rows, columns, _ = block.shape
    found = []
    for replacement in drawn:
        luma = square = down = across = 0.0
        for i in range(rows):
            for j in range(columns):
                change = replacement[i, j] / 255 - block[i, j]
                luma += 0.299 * change[0] + 0.587 * change[1] + 0.114 * change[2]
                square += float((change**2).sum())
                level = replacement[i, j] @ np.array([0.299, 0.587, 0.114]) / 255
                down += level * (i - (rows - 1) / 2)
                across += level * (j - (columns - 1) / 2)
        count = rows * columns
        distance = (square / (3 * count)) ** 0.5
        found.append((luma / count, distance, down / columns, across / rows))
    return tuple(np.array(found).T)


@pytest.mark.parametrize("place", [(1, 2), (3, 2), (3, 4)])  # whole; cut below; cut at the corner
def test_a_line_is_found_exactly(place: tuple[int, int]) -> None:
    """Losses that are linear in the features need no more draws for the mean over the pool."""
    drawn = COARSE[2, 2, :LEAST]
    factors = np.array([2.0, -5.0, 0.5, 0.25])
    losses = 3 + factors @ features(place, drawn)
    everywhere = features(place, COARSE.reshape(-1, 2, 2, 3))
    mean = Regression(IMAGE, COARSE).mean(place, drawn, losses)
    exact = 3 + factors @ everywhere
    assert mean.value == pytest.approx(exact.mean())
    # What is left is the uncertainty of the pool's own means.
    assert mean.error == pytest.approx(exact.std(ddof=1) / len(exact) ** 0.5)
    assert abs(mean.value - plain_mean(losses).value) > 1e-3


def test_estimates_are_unbiased_and_errors_are_honest() -> None:
    """Many sets of 24 draws: closer than plain means, and within the errors that are told."""
    place, regression = (1, 2), Regression(IMAGE, COARSE)
    pool = COARSE.reshape(-1, 2, 2, 3)
    luma, distance, *_ = features(place, pool)
    losses = np.exp(luma + 2 * distance) + 0.1 * RNG.standard_normal(len(pool))
    both = []
    for _ in range(400):
        chosen = RNG.integers(len(pool), size=24)
        mean = regression.mean(place, pool[chosen], losses[chosen])
        both.append((mean.value, mean.error, plain_mean(losses[chosen]).value))
    value, error, plain = np.array(both).T
    exact = losses.mean()
    assert value.std() < 0.5 * plain.std()
    assert abs(value.mean() - exact) < 0.2 * value.std()
    assert 0.8 < np.mean(error) / np.sqrt(np.mean((value - exact) ** 2)) < 1.5


def test_few_or_equal_replacements_have_their_plain_mean() -> None:
    regression, values = Regression(IMAGE, COARSE), RNG.random(LEAST)
    few = COARSE[0, 0, : LEAST - 1]
    assert regression.mean((0, 0), few, values[1:]) == plain_mean(values[1:])
    equal = np.repeat(COARSE[0, 0, :1], LEAST, 0)
    one = Regression(IMAGE, np.broadcast_to(equal[0], COARSE.shape)).mean((0, 0), equal, values)
    assert one.value == pytest.approx(values.mean())
    assert one.error == pytest.approx(values.std(ddof=1) / LEAST**0.5)
    assert np.isnan(plain_mean(values[:1]).error)


def test_the_rule_for_enough_draws() -> None:
    assert rounds(50) == [12, 18, 24, 30, 36, 42, 48, 50]
    assert rounds(12) == [12]
    assert rounds(4) == [4]
    assert is_enough(Mean(30.0, 0.0025), 30.0)
    assert not is_enough(Mean(30.0, 0.0026), 30.0)
    assert is_enough(Mean(29.9, 0.0099), 30.0)
    assert not is_enough(Mean(30.1, 0.0101), 30.0)
    assert not is_enough(Mean(30.0, np.nan), 30.0)


def test_a_map_in_rounds_has_regression_estimates(tmp_path: Path) -> None:
    lr, edsr = photographs(), small_edsr()
    effects = fastbg.CausalEffectMap(edsr, fine=30)
    plain = effects.effect(lr, WINDOW, truth_of(lr))
    result = effects.effect(lr, WINDOW, truth_of(lr), accuracy="published")
    assert result.regression
    assert not plain.regression
    regression = Regression.of(lr[0], result.interventions.coarse)
    for i, j in result.interventions.fine_index.tolist():
        values = result.fine_values[0, i, j].numpy()
        values = values[~np.isnan(values)]
        drawn = result.interventions.fine_of(i, j)
        assert drawn is not None
        mean = regression.mean((i, j), drawn[: len(values)], values)
        effect = result.baseline.item() - mean.value
        assert result.mean_effect[0, i, j].item() == pytest.approx(effect, abs=1e-12)
        assert result.standard_error[0, i, j].item() == pytest.approx(mean.error, abs=1e-12)
    # Blocks that no coarse replacement affects, and maps without rounds, have plain means.
    others = ~result.affected & ~result.own
    assert bool(others.any())
    torch.testing.assert_close(
        result.mean_effect[others], plain.mean_effect[others], rtol=0, atol=1e-12
    )

    path = tmp_path / "map.npz"
    result.save(path)
    loaded = fastbg.CausalEffectResult.load(path)
    assert loaded.regression
    np.testing.assert_array_equal(loaded.mean_effect, result.mean_effect)
    with np.load(path) as file:
        arrays = dict(file)
    for wrong in (np.array(1), np.array("yes"), np.array([True])):
        np.savez(path, **(arrays | {"regression": wrong}))
        with pytest.raises(DataError, match=r"holds no causal effect map .*regression"):
            fastbg.CausalEffectResult.load(path)
    del arrays["regression"]  # a file from before
    np.savez(path, **arrays)
    before = fastbg.CausalEffectResult.load(path)
    plain = replace(result, regression=False)
    np.testing.assert_array_equal(before.mean_effect, plain.mean_effect)
    affected = result.affected
    assert not before.mean_effect[affected].equal(result.mean_effect[affected])


def test_coarse_replacements_are_used_where_that_is_asked_for() -> None:
    """Several images and windows: each block's estimate is of its own image's draws."""
    lr, edsr = photographs(count=2), small_edsr()
    windows = torch.tensor([[(20, 24, 16), (4, 6, 12)], [(20, 24, 16), (0, 0, 10)]])
    effects = fastbg.CausalEffectMap(edsr, coarse=4, fine=14, block=4, reuse_coarse=True)
    result = effects.effect(lr, windows, truth_of(lr), accuracy="published")
    found = 0
    for pair in np.ndindex(2, 2):
        regression = Regression.of(lr[pair[0]], result.interventions.coarse)
        for i, j in np.argwhere(result.affected[pair].numpy()).tolist():
            values = torch.cat([result.coarse_values[pair][i, j], result.fine_values[pair][i, j]])
            fine = result.interventions.fine_of(i, j)
            assert fine is not None
            both = np.concatenate([result.interventions.coarse[i, j], fine])
            used = ~values.isnan().numpy()
            mean = regression.mean((i, j), both[used], values.numpy()[used])
            effect = result.baseline[pair].item() - mean.value
            assert result.mean_effect[pair][i, j].item() == pytest.approx(effect, abs=1e-12)
            found += 1
    assert found > 4
