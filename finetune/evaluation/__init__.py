"""Features, distances, sanity checks and grounding."""
