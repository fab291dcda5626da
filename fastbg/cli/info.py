"""`fastbg info`: versions, devices, backends, networks and experiments."""

import argparse
import dataclasses
import platform
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console
from rich.table import Table

from fastbg.errors import CheckpointError
from fastbg.experiments import EXPERIMENTS
from fastbg.models.checkpoints import built_in_path
from fastbg.models.registry import BUILT_IN
from fastbg.registration.dispatch import BACKENDS, FAMILIES, PREFERENCE, Place, select, unavailable
from fastbg.version import __version__

PACKAGES = ("torch", "triton", "numpy", "safetensors", "scikit-image", "matplotlib")


def main(_: argparse.Namespace) -> None:
    """Print everything."""
    console = Console(highlight=False)
    console.print(f"[bold]fastbg {__version__}[/]  Python {platform.python_version()}")
    console.print(*(f"{name} {_version(name)}" for name in PACKAGES), sep=", ", soft_wrap=True)
    for device in devices():
        console.print(f"\n[bold]{device.type}[/]  {describe(device)}", soft_wrap=True)
        for line in backend_lines(device):
            console.print(f"  {line}", markup=False, soft_wrap=True)
    console.print("\n[bold]networks[/]")
    for name in BUILT_IN:
        console.print(f"  {name}: {_network(name)}", markup=False, soft_wrap=True)
    console.print(
        "\n[bold]experiments[/] (set by -o EXPERIMENT.NAME=VALUE; fastbg options tells meanings)"
    )
    table = Table(box=None, padding=(0, 2))
    for name, kind in EXPERIMENTS.items():
        options = dataclasses.asdict(kind.options_type())
        text = "  ".join(f"{key}={value}" for key, value in options.items())
        table.add_row(name, kind.paper, text)
    console.print(table)


def devices() -> list[torch.device]:
    """The CPU, and the GPU where there is one."""
    return [torch.device("cpu"), *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def describe(device: torch.device) -> str:
    """Description of the device."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"


def backend_lines(device: torch.device) -> list[str]:
    """One line per backend if all operators agree, else one per operator; "auto" last."""
    place = Place(device, torch.float32)
    lines = []
    for backend in BACKENDS:
        reasons = {op: unavailable(op, backend, place) for op in FAMILIES}
        if len(set(reasons.values())) == 1:
            lines.append(f"{backend}: {next(iter(reasons.values())) or 'available'}")
        else:
            lines += [f"{backend}: {op}: {why or 'available'}" for op, why in reasons.items()]
    chosen = ", ".join(f"{op} -> {select(op, place)}" for op in FAMILIES)
    return [*lines, f"auto ({' > '.join(PREFERENCE.get(device.type, ('torch',)))}): {chosen}"]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _network(name: str) -> str:
    try:
        return f"built in ({built_in_path(name)})"
    except CheckpointError as error:
        return str(error)
