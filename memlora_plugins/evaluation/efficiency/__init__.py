"""What a memory costs: sizes, tokens and seconds by operation (MemLoRA, Tables 3, A6 and A7)."""
