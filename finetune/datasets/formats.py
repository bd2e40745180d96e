"""The function that indexes a dataset's archives, by `preprocess.<dataset>.format`."""

from finetune.datasets.coco import index_coco
from finetune.datasets.flickr8k import index_flickr8k
from finetune.datasets.imagefolder import index_imagefolder

FORMATS = {"coco": index_coco, "flickr8k": index_flickr8k, "imagefolder": index_imagefolder}
