from finetune.torchvision_ops import declare_when_needed

declare_when_needed()
