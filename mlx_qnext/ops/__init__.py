"""Numeric kernels behind one signature each."""
