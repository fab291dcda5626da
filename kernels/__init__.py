"""Triton kernels, one file per operator family; installed as ``fastbg.kernels``.

A family's file reads top-down: kernels, then launchers, then `workloads`, the launches of the
paper's workload that are compiled and budgeted without a GPU (bench/gpu_static.py). This layer
takes tensors and launches kernels; semantics, checks and allocation belong to the layers above.
"""
