"""Synthetic scenes: animals and people in outfits and poses, rendered at 512x512."""
