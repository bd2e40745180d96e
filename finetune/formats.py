"""The forms in which a data set's archives come, by `preprocess.<data set>.format`."""

from finetune.coco import list_coco
from finetune.flickr8k import list_flickr8k
from finetune.imagefolder import list_imagefolder

LISTS = {"coco": list_coco, "flickr8k": list_flickr8k, "imagefolder": list_imagefolder}
