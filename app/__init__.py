import finetune  # noqa: F401 (before anything that takes long to import: Ctrl-C, torchvision)
