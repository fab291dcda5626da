"""What training frameworks put around weights: found in any nesting, told apart, or named."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import fastbg
from fastbg.errors import CheckpointError
from fastbg.models.edsr import EDSR
from fastbg.models.wrappers import (
    DEEPEST,
    Found,
    LayoutError,
    is_inside,
    peeled,
    tensor_dictionaries,
)

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def state() -> State:
    torch.manual_seed(0)
    return EDSR(features=4, blocks=1).state_dict()


def under(prefix: str, state: State) -> State:
    return {prefix + key: value for key, value in state.items()}


def changed(state: State) -> State:
    return {key: value + 0.1 for key, value in state.items()}


def load(content: object, folder: Path, **options: Any) -> fastbg.models.network.Network:
    torch.save(content, folder / "net.pth", **options)
    return fastbg.load_model(folder / "net.pth")


def trained(state: State) -> dict[str, Any]:
    """An optimizer that took a step: tensors of the network's shapes under numbers."""
    net = EDSR(features=4, blocks=1)
    net.load_state_dict(state)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.rand(1, 3, 4, 4)).mean().backward()
    optimizer.step()
    return optimizer.state_dict()


WORDS = (
    *("params_ema", "params-ema", "params", "state_dict", "model_state_dict", "model", "net"),
    *("network", "netG", "netG_A", "generator", "gen", "ema", "module", "g_ema", "anything"),
)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("shape", ["key", "prefix", "both", "compiled"])
def test_words_around_a_network(word: str, shape: str, state: State, tmp_path: Path) -> None:
    content: object = {
        "key": {word: state, "epoch": 3},
        "prefix": under(f"{word}.", state),
        "both": {word: {"inner": under(f"module.{word}.", state)}},
        "compiled": {"params": under(f"_orig_mod.{word}._orig_mod.", state)},
    }[shape]
    net = load(content, tmp_path)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())


FRAMEWORKS: dict[str, Callable[[State], object]] = {
    "Lightning": lambda s: {
        "epoch": 3,
        "pytorch-lightning_version": "2.4",
        "state_dict": {
            **under("sr_net.", s),
            "vgg_loss.net.0.weight": torch.rand(4, 3, 3, 3),
            "perceptual_loss.scale": torch.rand(2),
        },
        "optimizer_states": [trained(s)],
        "hyper_parameters": {"options": argparse.Namespace(lr=1), "root": Path("x")},
        "callbacks": {"stop": {"best": np.float64(28.1), "wait": torch.zeros(3)}},
    },
    "mmagic": lambda s: {
        "meta": {"iter": 5},
        "state_dict": {
            **under("generator.", changed(s)),
            **under("generator_ema.", s),
            "discriminator.conv.weight": torch.rand(3, 3),
            "step_counter": torch.tensor(4),
            "data_preprocessor.mean": torch.rand(3),
        },
    },
    "BasicSR": lambda s: {"params": changed(s), "params_ema": s},
    "timm": lambda s: {"arch": "edsr", "state_dict": changed(s), "state_dict_ema": s},
    "ema_pytorch": lambda s: {
        **under("online_model.", changed(s)),
        **under("ema_model.", s),
        "initted": torch.tensor(True),
        "step": torch.tensor(7),
    },
    "AveragedModel": lambda s: {"n_averaged": torch.tensor(5), **under("module.", s)},
    "FSDP": lambda s: {
        "model": {
            key.replace("body.0.", "body.0._fsdp_wrapped_module._checkpoint_wrapped_module."): value
            for key, value in under("_fsdp_wrapped_module.", s).items()
        }
    },
    "DeepSpeed": lambda s: {"module": under("module.", s), "ds_version": "0.1"},
    "training state": lambda s: {"model": s, "optimizer": trained(s), "opt": {"lr": [1, 2]}},
    "an optimizer by names": lambda s: {
        "net": s,
        "optimizer": {"exp_avg": changed(s), "exp_avg_sq": changed(s)},
        "exp_avg": {"net": changed(s)},
    },
    "a list": lambda s: [s, 3],
    "a range, which pickles name as Python 2 did": lambda s: {"params": s, "order": range(3)},
    "the same twice": lambda s: {"model": s, "state_dict": dict(s)},
    "parameters": lambda s: {key: torch.nn.Parameter(value) for key, value in s.items()},
}


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("zipped", [True, False])
def test_frameworks(framework: str, zipped: bool, state: State, tmp_path: Path) -> None:
    content = FRAMEWORKS[framework](state)
    net = load(content, tmp_path, _use_new_zipfile_serialization=zipped)
    assert all(torch.equal(net.state_dict()[key], value) for key, value in state.items())


def test_dictionaries_are_found_once_and_down_to_a_depth(state: State) -> None:
    around: dict[str, Any] = {"params": state}
    around["itself"] = around
    assert [found.place for found in tensor_dictionaries(around)] == ["params"]
    deep: dict[str, Any] = state
    for _ in range(DEEPEST):
        deep = {"in": deep}
    with pytest.raises(LayoutError, match="holds no tensors under in"):
        tensor_dictionaries(deep)
    (found,) = tensor_dictionaries(deep["in"])
    assert found.place == " / ".join(["in"] * (DEEPEST - 1))


def test_prefixes_are_taken_off_while_all_keys_share_one() -> None:
    """Beside the network lies a loss, or its averaged weights."""
    one = torch.zeros(1)
    state = {"net.module.a.weight": one, "net.module.b": one, "vgg.c": one}
    assert [(level.place, [*level.state]) for level in peeled(Found("params", state))] == [
        ("params", [*state]),
        ("params / net.", ["module.a.weight", "module.b"]),
        ("params / net. / module.", ["a.weight", "b"]),
    ]
    both = Found("", {"online.x": one, "ema.x": one})
    assert [(level.place, [*level.state]) for level in peeled(both)] == [
        ("", ["online.x", "ema.x"]),
        ("online.", ["x"]),
        ("ema.", ["x"]),
    ]


def test_the_place_of_averaged_weights_is_told(state: State, tmp_path: Path) -> None:
    assert load(FRAMEWORKS["mmagic"](state), tmp_path).origin == "state_dict / generator_ema."
    assert load(FRAMEWORKS["BasicSR"](state), tmp_path).origin == "params_ema"
    assert load(state, tmp_path).origin == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {"a": s, "b": changed(s)}, "holds 2 networks, under 'a', 'b'; save one"),
        (lambda s: {"ema_1": s, "x_ema": changed(s)}, "holds 2 networks, under 'ema_1', 'x_ema'"),
        (
            lambda s: {**under("first.", s), "refine.conv.weight": torch.rand(3)},
            r"holds more than a network: refine\.conv\.weight",
        ),
        (lambda s: {"optimizer": trained(s)}, "holds no tensors under optimizer"),
        (lambda s: EDSR(features=4, blocks=1), "holds a EDSR, .* save its state_dict"),
        (lambda s: {"params": argparse.Namespace(x=1)}, "holds no tensors under params"),
    ],
)
def test_what_is_not_clear_is_refused(
    change: Callable[[State], object], message: str, state: State, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message):
        load(change(state), tmp_path)


@pytest.mark.parametrize(
    "name", ["a.PTH", "a.pt", "a.Ckpt", "a.bin", "a.pkl", "a", "a.safetensors"]
)
def test_files_go_by_their_contents_not_their_names(
    name: str, state: State, tmp_path: Path
) -> None:
    torch.save({"params": state}, tmp_path / name)
    assert fastbg.load_model(tmp_path / name).config["features"] == 4


@pytest.mark.parametrize(
    ("place", "other", "inside"),
    [
        ("params / body", "params", True),
        ("params", "params / body", False),
        ("params_ema", "params", False),
        ("params", "", True),
    ],
)
def test_a_place_inside_another_starts_with_its_whole_name(
    place: str, other: str, inside: bool, state: State
) -> None:
    assert is_inside(Found(place, state), Found(other, state)) is inside
