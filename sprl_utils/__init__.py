"""Utilities of the mDCSRN / WGAN-GP brain-MRI super-resolution study; the notebooks tell the story."""

__version__ = "0.1.0"
