"""float32 that is float32 on a GPU too."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

PRECISION = "float32, TF32 off"


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions use TF32 unless told not to, products of matrices where the environment asks for it
    (`TORCH_ALLOW_TF32_CUBLAS_OVERRIDE`, as some containers do): either would move features by a thousandth.
    """
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_tf32
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        matmul.allow_tf32 = False
        try:
            yield
        finally:
            matmul.allow_tf32 = before
