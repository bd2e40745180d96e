"""Make PyPI's torchvision importable with a CPU-only torch.

That torchvision wheel is a CUDA build. With `torch==X+cpu` its native operators do not load, and `import torchvision`
fails ("operator torchvision::nms does not exist"), and with it diffusers, transformers and clean-fid. None of them
calls those operators here, so declaring the two that the import looks up is enough. Matching builds are left alone.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.metadata import PackageNotFoundError, version

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_keep_alive: list[object] = []  # torch removes the declarations when their Library is garbage-collected


class _DeclareBeforeImport(MetaPathFinder):
    """Declares the operators when torchvision is first imported, and finds no module itself."""

    def find_spec(self, fullname: str, *_: object) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch  # not at the top: most commands never need it

            library = torch.library.Library("torchvision", "FRAGMENT")
            for schema in _SCHEMAS:
                library.define(schema)
            _keep_alive.append(library)


def install_torchvision_shim() -> None:
    """Declare the operators before torchvision is imported, if its build does not match the installed torch."""
    try:
        mismatch = version("torch").endswith("+cpu") and not version("torchvision").endswith("+cpu")
    except PackageNotFoundError:
        return
    if mismatch and not any(isinstance(finder, _DeclareBeforeImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _DeclareBeforeImport())
