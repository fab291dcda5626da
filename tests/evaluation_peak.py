"""Memory that `fastbg evaluate` takes, in a process of its own: prints the peak in MiB last.

python tests/evaluation_peak.py --model edsr --data DIR --tile 128
"""

import sys

import torch
from attribution_peak import peak

from fastbg.cli import main

if __name__ == "__main__":
    torch.set_num_threads(1)
    status = main(["evaluate", *sys.argv[1:]])
    print(peak())
    sys.exit(status)
