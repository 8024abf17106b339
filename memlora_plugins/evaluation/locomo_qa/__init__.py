"""Questions of LoCoMo answered from a memory: metrics L and J, by stage and by student (MemLoRA, Tables 4 and 5)."""
