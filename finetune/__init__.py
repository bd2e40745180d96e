from finetune.process import say_it_in_a_line
from finetune.torchvision_compat import declare_when_needed

say_it_in_a_line()
declare_when_needed()
