"""Archive formats: COCO, Flickr8k, imagefolder, and the synthetic scenes."""
