import finetune  # noqa: F401 (before diffusers: it makes torchvision importable everywhere)
