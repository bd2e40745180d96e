"""Randomness as a function of names: the same seed and labels give the same numbers anywhere, in any order."""

import hashlib

import torch


def derive_seed(seed: int, *labels: str | int) -> int:
    """A 63-bit seed that depends on every label, for example `derive_seed(7, "noise", step)`."""
    text = "/".join(str(part) for part in (seed, *labels))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *labels: str | int) -> torch.Generator:
    """A CPU generator of its own for one purpose, so that no draw can disturb another."""
    return torch.Generator().manual_seed(derive_seed(seed, *labels))
