"""MeMo: a corpus becomes a small Memory model, which a frozen Executive asks."""
