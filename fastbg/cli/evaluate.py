"""`fastbg evaluate`: the score table of a benchmark folder."""

from typing import Any

from fastbg import evaluation


def register(commands: Any) -> None:
    """Add the command to the parser."""
    command = commands.add_parser("evaluate", help="PSNR and SSIM of networks on a folder")
    evaluation.add_arguments(command)
    command.set_defaults(command=evaluation.main)
