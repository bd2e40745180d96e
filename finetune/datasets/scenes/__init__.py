"""Synthetic scenes: animals and people in outfits and poses, drawn and written as COCO and Flickr8k archives."""
