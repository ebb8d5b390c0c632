"""Numbers: pure functions on arrays. Never torch, Qt or the disk."""
