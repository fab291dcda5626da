"""Picture of deletion and insertion curves."""

from typing import TYPE_CHECKING

from matplotlib.axes import Axes
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from fastbg.attribution.faithfulness import FaithfulnessResult


COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")
GREYS = ("#b0b0b0", "#606060")
DASHES = (":", "--")


def curves_figure(result: "FaithfulnessResult") -> Figure:
    """Deletion and insertion, means over the images; areas stand in the legend."""
    drawn = Figure(figsize=(9.5, 4.4), layout="constrained")
    left, right = drawn.subplots(1, 2)
    _draw(left, result, "deletion")
    left.set(title="deletion: low is good", ylabel="share of the objective left")
    _draw(right, result, "insertion")
    right.set(title="insertion: low is good", ylabel="share of the RMS distance left")
    drawn.legend(
        *left.get_legend_handles_labels(),
        loc="outside lower center",
        ncols=2,
        fontsize="small",
        frameon=False,
        title="name (area of deletion, of insertion)",
    )
    return drawn


def _draw(axis: Axes, result: "FaithfulnessResult", kind: str) -> None:
    curves = {"deletion": result.deletion, "insertion": result.insertion}[kind]
    common = [name for name in curves if name not in result.controls and not _own(result, name)]
    styles = dict(zip(common, zip(GREYS, DASHES, strict=True), strict=False))
    for name, colour in zip(result.controls, COLOURS * len(result.controls), strict=False):
        styles[name] = (colour, "-")
        styles[result.controls[name][-1]] = (colour, "-.")
    for name, (colour, dash) in styles.items():
        areas = result.deletion_area[name].nanmean(), result.insertion_area[name].nanmean()
        label = f"{name} ({areas[0]:.2f}, {areas[1]:.2f})"
        values = curves[name].nanmean(0).numpy()
        axis.plot(result.counts.numpy(), values, color=colour, linestyle=dash, label=label)
    axis.set(xscale="log", xlabel="LR pixels replaced, those of the largest value first")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)


def _own(result: "FaithfulnessResult", name: str) -> bool:
    """Whether `name` is a control of only one map."""
    return any(name == own[-1] for own in result.controls.values())
