"""Cross-attention maps and Prompt-to-Prompt."""
