"""Makes the package index's torchvision importable beside a CPU-only torch.

That torchvision wheel is a CUDA build: beside `torch==X+cpu` its native operators do not load and
`import torchvision` fails ("operator torchvision::nms does not exist"), and with it diffusers,
transformers and clean-fid. None of them calls those operators here, so declaring the two whose absence
stops the import is enough. On a matching pair of builds nothing happens at all.
"""

import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

_keep_alive: list[object] = []  # a library's declarations end with it


class _DeclareBeforeImport(MetaPathFinder):
    """Finds nothing itself; declares the operators at the moment torchvision is first looked for."""

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            import torch  # late: most commands never need it

            library = torch.library.Library("torchvision", "FRAGMENT")
            for schema in _SCHEMAS:
                library.define(schema)
            _keep_alive.append(library)
        return None


def install_torchvision_shim() -> None:
    """Watch for the import of torchvision, if its build cannot match the installed torch."""
    try:
        mismatch = version("torch").endswith("+cpu") and not version("torchvision").endswith("+cpu")
    except PackageNotFoundError:
        return
    if mismatch and not any(isinstance(finder, _DeclareBeforeImport) for finder in sys.meta_path):
        sys.meta_path.insert(0, _DeclareBeforeImport())
