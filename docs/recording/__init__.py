"""Pictures of the program in a terminal, as it really ran: python -m docs.recording."""
