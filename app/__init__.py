import finetune  # noqa: F401 (first: it handles Ctrl-C during slow imports, and stubs torchvision where it is missing)
