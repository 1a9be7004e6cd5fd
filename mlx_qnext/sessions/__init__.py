"""Conversations on disk: what was said, and what the model has read of it, so that nothing is read again after a restart."""
