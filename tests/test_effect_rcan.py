"""Causal effects in RCAN: through its convolutions alone, and through its means over the map."""

import pytest
import torch
from effect_cases import WINDOW, photographs, small_edsr, truth_of
from torch import Tensor, nn

import fastbg
from fastbg.errors import InvalidArgument
from fastbg.models.network import Network
from fastbg.models.rcan import RCAN, ChannelBlock
from fastbg.models.rcan_direct import DirectRCAN


@pytest.fixture
def edsr() -> Network:
    return small_edsr()


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
