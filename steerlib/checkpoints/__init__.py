"""A model's training history, and bringing it here."""
