"""The terminal front end: Typer commands and Rich views over the engine's events."""
