"""Warnings that point at the line of the user's code, however deep inside fastbg they are raised.

`warnings.warn` counts frames, which changes with each decorator and each caller; its
`skip_file_prefixes` exists from Python 3.12 on.
"""

import sys
import warnings
from types import FrameType

# Between fastbg's frames, and between fastbg and its callers: torch.no_grad() as a decorator, the
# import system for a name that is loaded when it is first used, pools of threads, Captum's log.
_PASSED = frozenset(
    ["fastbg", "torch", "captum", "contextlib", "functools", "importlib", "concurrent", "threading"]
)


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Issue a warning at the innermost line outside of fastbg and PyTorch.

    The outermost line where there is none, as on the command line. Python's filters apply to the
    module of that line, and "default" shows it once for each line.
    """
    frame = _users_frame(sys._getframe(1))
    warnings.warn_explicit(
        message,
        category,
        filename=frame.f_code.co_filename,
        lineno=frame.f_lineno,
        module=str(frame.f_globals.get("__name__") or "<unknown>"),
        registry=frame.f_globals.setdefault("__warningregistry__", {}),
    )


def _users_frame(frame: FrameType) -> FrameType:
    while _is_passed(frame) and frame.f_back is not None:
        frame = frame.f_back
    return frame


def _is_passed(frame: FrameType) -> bool:
    name = str(frame.f_globals.get("__name__") or "")
    return name.partition(".")[0] in _PASSED
