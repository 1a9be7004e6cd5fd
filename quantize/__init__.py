"""Checkpoints to local quantised weights."""
