"""Where experts live: their byte ranges on disk, the slots in memory that they are read into, and the plan of that memory."""
