"""The forms in which a data set's archives come, by `preprocess.<data set>.format`."""

from finetune.datasets.coco import list_coco
from finetune.datasets.flickr8k import list_flickr8k
from finetune.datasets.imagefolder import list_imagefolder

LISTS = {"coco": list_coco, "flickr8k": list_flickr8k, "imagefolder": list_imagefolder}
