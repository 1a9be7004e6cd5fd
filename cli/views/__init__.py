"""What a terminal shows, reduced from the engine's events; no view computes anything about the model."""
