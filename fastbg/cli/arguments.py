"""The arguments of every command.

No package such as PyTorch is imported here, so that help and error messages appear at once. The
module of a command is imported when it runs.
"""

from pathlib import Path
from typing import Any

from fastbg.cli.parser import Parser, filled, number, path, seed, whole
from fastbg.cli.shared_arguments import (
    SHARED_MEANINGS,
    SHARED_OPTIONS,
    arithmetic,
    device,
    engine,
    images,
    loaded,
)
from fastbg.cli.versions import Versions
from fastbg.vocabulary import (
    CHANNELS,
    EFFECT_METRICS,
    EXPERIMENTS,
    EXTRA,
    KERNELS,
    METHOD,
    METHODS,
    NETWORK,
    NETWORK_HELP,
    NETWORKS,
    NODE_COUNTS,
    STEPS,
)

SHELLS = ("bash", "zsh", "tcsh")
ABOUT = "Which pixels did a super-resolution network use, and did they help?"


def parser() -> Parser:
    """The whole command line."""
    line = Parser(prog="fastbg", description=ABOUT)
    line.add_argument("--version", action=Versions)
    commands = line.add_subparsers(title="commands", required=True, metavar="COMMAND")
    commands_in_order = (run, report, compare, attribute, diffusion, effect, evaluate, train)
    for register in (*commands_in_order, info, options, completion):
        register(commands)
    return line


def run(commands: Any) -> None:
    """`fastbg run`."""
    command = commands.add_parser(
        "run",
        help="run experiments and write a report",
        description="Run experiments, store every result in the run folder, and write report.html "
        "there. The same command resumes a run that was stopped.",
    )
    command.set_defaults(command=loaded("run"))
    add = command.add_argument
    known = ", ".join(EXPERIMENTS)
    add(
        "experiments",
        nargs="*",
        metavar="EXPERIMENT",
        help=f"any of: {known} (default: all but {', '.join(EXTRA)})",
    )
    add(
        "--model",
        action="append",
        metavar=NETWORK,
        help=f"{NETWORK_HELP}; may be repeated (default: every built-in network that is installed)",
    )
    add(
        "--pooling",
        type=whole(1),
        metavar="N",
        help="for each RCAN also measure a copy whose channel attention averages N x N LR pixels "
        "instead of the whole input (the built-in one was trained on 24)",
    )
    add("--data", type=path, metavar="DIR", help="folder of HR images (default: built-in images)")
    images(command)
    add("--out", type=path, default=Path("fastbg-run"), metavar="DIR", help="run folder")
    add(
        "--seed",
        type=seed,
        default=0,
        metavar="N",
        help="seed of random choices such as sub-images",
    )
    add("--limit", type=whole(1), metavar="N", help="at most N items per experiment")
    add(
        "--quick",
        action="store_true",
        help="a first look at every experiment in about two minutes, with the first items of each, "
        "too few for most verdicts; the same command without it continues the run",
    )
    device(command)
    for name, choices in SHARED_OPTIONS.items():
        metavar = None if choices else "hard|TAU,..."
        told = f"option {name} of all experiments that have it"
        add(f"--{name}", choices=choices, metavar=metavar, help=told)
    add(
        "-o",
        "--option",
        action="append",
        default=[],
        metavar="EXPERIMENT.NAME=VALUE",
        help="set an option of one experiment; `fastbg options` lists them",
    )
    engine(command)


def report(commands: Any) -> None:
    """`fastbg report`."""
    command = commands.add_parser("report", help="write the report of a run folder again")
    command.set_defaults(command=loaded("report"))
    command.add_argument("folder", type=path, metavar="DIR", help="run folder")


def compare(commands: Any) -> None:
    """`fastbg compare`."""
    command = commands.add_parser(
        "compare",
        help="two runs side by side",
        description="List the differences of two runs, such as networks, seeds or options, and "
        "the numbers that both measured: the mean in each, and the mean difference over common "
        "items, with a paired 95 % interval over photographs.",
    )
    command.set_defaults(command=loaded("compare"))
    add = command.add_argument
    add("run", type=path, metavar="RUN", help="run folder")
    add("other", type=path, metavar="OTHER", help="run folder")
    add("--model", nargs=2, metavar="LABEL", help="a network of either run (default: same labels)")
    add("--csv", type=path, metavar="FILE", help="also write the table to a file")


def attribute(commands: Any) -> None:
    """`fastbg attribute`."""
    command = commands.add_parser(
        "attribute",
        help="which pixels did the networks use for a window?",
        description="Local attribution maps (LAM) of one or more networks side by side: pictures "
        "with the SR windows and the diffusion index of each. If --out is a folder, also arrays "
        "(.npz, for AttributionResult.load) and a table (attribution.csv).",
    )
    command.set_defaults(command=loaded("attribute"))
    add = command.add_argument
    add(
        "image",
        nargs="+",
        type=filled,
        metavar="IMAGE",
        help="the networks' LR input, files or folders; with --hr the input is made from IMAGE",
    )
    add("--model", nargs="+", required=True, metavar=NETWORK, help=NETWORK_HELP)
    add(
        "--window",
        nargs="+",
        action="append",
        required=True,
        metavar="Y X SIZE|Y0 X0 Y1 X1|center [SIZE]|FILE.csv",
        help="top left corner and side, SR pixels; or a box; or the middle (SIZE: 16); or a file "
        "with the columns image,y0,x0,y1,x1; may be repeated",
    )
    add(
        "--out",
        type=path,
        required=True,
        metavar="FILE|DIR",
        help="FILE.png, .pdf or .svg for one window; a folder for any number",
    )
    add(
        "--format",
        choices=("png", "pdf", "svg"),
        help="format of pictures in a folder (default png)",
    )
    add(
        "--hr",
        action="store_true",
        help="IMAGE is high resolution: the networks get it down-sampled, and it is the ground "
        "truth for the picture and the PSNR of the window",
    )
    add(
        "--html",
        type=path,
        metavar="FILE",
        help="also write an interactive page with a grid of windows",
    )
    add(
        "--grid",
        type=whole(1),
        metavar="N",
        help="SR pixels between the page's windows (default: so that there are at most 100)",
    )
    add(
        "--memory",
        type=number,
        default=8.0,
        metavar="GIB",
        help="largest memory of a pass: networks that depend on the whole image are refused larger "
        "images; others compute only the part that the window depends on",
    )
    add(
        "--crop",
        type=whole(1),
        metavar="N",
        help="give networks that depend on the whole image only N x N LR pixels around the window; "
        "the picture says so",
    )
    add("--steps", type=whole(1), metavar="N", help=f"nodes of the path (default {STEPS})")
    add("--method", choices=METHODS, help=f"quadrature rule (default {METHOD})")
    add(
        "--accuracy",
        choices=("published",),
        help="at least as accurate as the published 50 steps, in fewer passes; replaces --steps "
        "and --method",
    )
    add("--device", default="cpu", help="cpu, cuda, cuda:1 ...")
    arithmetic(command)


def diffusion(commands: Any) -> None:
    """`fastbg diffusion`; the experiment `diffusion` with an image for each item."""
    command = commands.add_parser(
        "diffusion",
        help="how widely do networks look on a set of images?",
        description="Diffusion index, Gini coefficient and area of contribution of one window in "
        "each image, and its PSNR: means with 95 % intervals over photographs, and paired "
        "differences between networks. Writes a table (diffusion.csv), arrays (.npz), pictures "
        "and a report. A run that was stopped resumes with the same command. Images whose window "
        "has no detail are left out and listed at the end (exit status 1).",
    )
    command.set_defaults(command=loaded("diffusion"))
    add = command.add_argument
    add("--model", nargs="+", action="extend", required=True, metavar=NETWORK, help=NETWORK_HELP)
    add("--data", type=path, metavar="DIR", help="folder of HR images (default: built-in images)")
    images(command)
    add(
        "--windows",
        default="centre",
        metavar="centre|hard|FILE.csv",
        help="in the middle; or drawn with the seed where the built-in EDSR and SwinIR have large "
        "errors and differ (the LAM paper's rule); or from a file with a line for each image and "
        "the columns image,y0,x0,y1,x1 in HR pixels",
    )
    add(
        "--window",
        type=whole(1),
        default=16,
        metavar="N",
        help="side of the window, HR pixels, unless a file gives it",
    )
    add(
        "--size",
        type=whole(1),
        default=256,
        metavar="N",
        help="networks get N x N HR pixels around the window of each image, as indices are "
        "comparable for one input size only (default 256: LR 64 at x4, as in the LAM paper)",
    )
    add(
        "--nodes",
        choices=tuple(NODE_COUNTS),
        default="many",
        help="nodes on the path: "
        + "; ".join(f"{word}: {meaning}" for word, meaning in NODE_COUNTS.items()),
    )
    for name in ("kernel", "channel", "lr"):
        add(f"--{name}", choices=SHARED_OPTIONS[name], help=SHARED_MEANINGS[name])
    out = Path("fastbg-diffusion")
    add("--out", type=path, default=out, metavar="DIR", help="folder of all output")
    add("--seed", type=seed, default=0, metavar="N", help="seed of --windows hard")
    add("--limit", type=whole(1), metavar="N", help="only the first N images")
    device(command)
    engine(command)


def effect(commands: Any) -> None:
    """`fastbg effect`."""
    command = commands.add_parser(
        "effect",
        help="which blocks of the input help a window, and which harm it?",
        description="Causal effect map: every block of the input is replaced by patches of other "
        "images; its effect is the mean loss of the window's PSNR.",
    )
    command.set_defaults(command=loaded("effect"))
    add = command.add_argument
    add("image", type=filled, metavar="IMAGE", help="the network's LR input")
    add("--model", required=True, metavar=NETWORK, help=NETWORK_HELP)
    add(
        "--window",
        nargs=3,
        type=whole(),
        required=True,
        metavar=("Y", "X", "SIZE"),
        help="top left corner and side, SR pixels",
    )
    add(
        "--hr",
        type=filled,
        metavar="FILE",
        help="HR image, the ground truth; not for --metric change",
    )
    add("--out", type=path, required=True, metavar="FILE", help="FILE.png, .pdf or .svg")
    add("--save", type=path, metavar="FILE", help="also save all numbers, as .npz")
    add("--block", type=whole(1), default=2, metavar="N", help="side in LR pixels (default 2)")
    add("--coarse", type=whole(1), default=3, metavar="N", help="patches for each block")
    add(
        "--fine",
        type=whole(1),
        default=50,
        metavar="N",
        help="further patches for each affected block",
    )
    add(
        "--tolerance",
        type=number,
        default=0.01,
        metavar="T",
        help="smaller effects are set to 0; in dB, or the metric's unit (default 0.01)",
    )
    add("--metric", default="psnr", choices=EFFECT_METRICS, help="default: psnr")
    add("--patches", type=path, metavar="DIR", help="LR images to cut patches from")
    add("--seed", type=seed, default=0, metavar="N", help="seed of the patches")
    add(
        "--paths",
        default="total",
        choices=("total", "direct"),
        help="direct: for RCAN, effects with the channel weights of the unchanged image (default: "
        "total)",
    )
    add("--reuse-coarse", action="store_true", help="also average over the coarse patches")
    add(
        "--accuracy",
        choices=("published",),
        help="as accurate as 50 patches, with fewer where these suffice",
    )
    add("--interventions", type=path, metavar="FILE", help="use the patches of another map")
    add(
        "--keep-interventions",
        type=path,
        dest="keep",
        metavar="FILE",
        help="save the patches for another network, as .npz",
    )
    add(
        "--resume",
        type=path,
        metavar="DIR",
        help="store finished parts there, and resume from them",
    )
    add("--device", default="cpu", help="auto, cpu, cuda, cuda:1 ...")
    arithmetic(command)


def evaluate(commands: Any) -> None:
    """`fastbg evaluate`."""
    command = commands.add_parser(
        "evaluate",
        help="PSNR and SSIM of networks on a folder of images",
        description="PSNR, SSIM and other measures of networks, beside bicubic, on every image of "
        "a folder. Images that cannot be read are left out and listed at the end (exit status 1).",
    )
    command.set_defaults(command=loaded("evaluate"))
    add = command.add_argument
    add(
        "--model",
        nargs="+",
        action="extend",
        required=True,
        metavar=NETWORK,
        help=NETWORK_HELP,
    )
    add("--data", type=path, required=True, metavar="DIR", help="HR images")
    add("--channel", choices=CHANNELS, default="y", help="channels that are measured (default: y)")
    add(
        "--shave",
        type=whole(0),
        metavar="N",
        help="border that is not measured, SR pixels (default: the scale)",
    )
    add(
        "--kernel",
        choices=KERNELS,
        help="bicubic kernel that makes the LR images (default: use the data set's LR images if it "
        "has any, else matlab)",
    )
    add("--lr", type=path, metavar="DIR", help="folder of LR images to use")
    add(
        "--measure",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="further measures, on RGB: lpips, dists, fsim and all others of pyiqa (extra iqa)",
    )
    add(
        "--tile",
        type=whole(1),
        metavar="N",
        help="compute large images in tiles of N x N LR pixels, to save memory; the result is the "
        "same up to rounding for edsr, swinir and bicubic, but not for rcan and wrapped networks",
    )
    add("--csv", type=path, metavar="FILE", help="write all scores and means as a table")
    add("--json", type=path, metavar="FILE", help="the same, with the settings")
    add("--save", type=path, metavar="DIR", help="save SR images as DIR/NETWORK/IMAGE.png")
    images(command)
    add("--device", default="cpu", help="default: cpu")
    arithmetic(command)


def train(commands: Any) -> None:
    """`fastbg train`; defaults are those of `fastbg.training.TrainConfig`."""
    command = commands.add_parser(
        "train",
        help="train a network",
        description="Train with L1 loss, Adam, and a cosine schedule with warm-up; the running "
        "average of the weights is saved, in float16. The state is stored in OUT.ckpt every few "
        "minutes; --resume continues from it.",
    )
    command.set_defaults(command=loaded("train"))
    add = command.add_argument
    add("network", metavar="NETWORK", help=f"any of: {', '.join(NETWORKS)}")
    add("--data", type=path, required=True, metavar="DIR", help="folder of HR images")
    images(command)
    add("--out", type=path, required=True, metavar="FILE", help="weights file (.safetensors)")
    add("--steps", type=whole(1), metavar="N", help="number of training steps")
    add("--batch", type=whole(1), metavar="N", help="patches per step")
    add("--patch", type=whole(1), metavar="N", help="side of a patch, LR pixels")
    add("--rate", type=number, dest="learning_rate", metavar="R", help="highest learning rate")
    add(
        "--resize",
        type=number,
        nargs="+",
        default=(),
        metavar="F",
        help="also train on copies of the images reduced by these factors, in (0, 1]",
    )
    add("--start", metavar=NETWORK, help=f"initial weights: {NETWORK_HELP}")
    add("--seed", type=seed, default=0, metavar="N", help="seed of weights and patches")
    add("--device", default="auto", help="auto, cpu, cuda, cuda:1 ...")
    arithmetic(command)
    add("--resume", action="store_true", help="continue from OUT.ckpt")


def info(commands: Any) -> None:
    """`fastbg info`."""
    command = commands.add_parser("info", help="versions, devices, backends, experiments")
    command.set_defaults(command=loaded("info"))


def options(commands: Any) -> None:
    """`fastbg options`."""
    command = commands.add_parser(
        "options",
        help="list the options of experiments",
        description="List the options of experiments with default, allowed values and meaning.",
    )
    command.set_defaults(command=loaded("options"))
    known = ", ".join(EXPERIMENTS)
    command.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help=f"any of: {known} (default: all)"
    )


def completion(commands: Any) -> None:
    """`fastbg completion`."""
    command = commands.add_parser(
        "completion",
        help="shell completion of fastbg's arguments",
        description="Print a completion script for a shell, made by shtab (pip install "
        "'fastbg[completion]'). For bash: fastbg completion bash > "
        "~/.local/share/bash-completion/completions/fastbg",
    )
    command.set_defaults(command=loaded("completion"))
    command.add_argument("shell", metavar="SHELL", choices=SHELLS, help=", ".join(SHELLS))
