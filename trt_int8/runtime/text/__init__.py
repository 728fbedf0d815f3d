"""Texts in, embeddings, labels, tags or answers out: a tokenizer in front of a session."""
