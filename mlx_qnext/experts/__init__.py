"""Where experts live: their byte ranges on disk, the slots in memory that they are read into, and the plan of that memory."""

# Holds a long question and a long thought; every 8,192 tokens more take 0.2 GB in half precision.
DEFAULT_CONTEXT_TOKENS = 8192
