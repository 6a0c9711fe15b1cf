"""A server of another make that has the model: its address, its words, its streams, its counts."""
