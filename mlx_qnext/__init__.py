"""qnext: Qwen3-Next on MLX."""
