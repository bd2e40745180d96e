import finetune  # noqa: F401 (before diffusers: it makes torchvision importable everywhere)
from finetune.interrupted import say_it_in

say_it_in("interrupted")
