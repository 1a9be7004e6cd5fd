"""The network, read as its architecture diagram."""
