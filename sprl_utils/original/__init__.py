"""The original course project's ways: its LR recipe, its split, its patches and its procedure."""
