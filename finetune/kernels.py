"""A GPU's kernels: the quickest, or those that give the same bits every time."""

import os

import torch


def choose_kernels(deterministic: bool) -> None:
    """For the whole process, before its first matrix product.

    By PyTorch's notes on reproducibility, https://docs.pytorch.org/docs/stable/notes/randomness.html. An operation
    that has no deterministic kernel raises RuntimeError and names itself. A CPU's results are the same either way.
    """
    if deterministic:  # cuBLAS reads it when it is first used; PyTorch refuses to go on without it
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"
    torch.use_deterministic_algorithms(deterministic)
    torch.backends.cudnn.deterministic = deterministic
    # it fills new memory to expose kernels that read it unwritten, which costs time and makes nothing deterministic
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
