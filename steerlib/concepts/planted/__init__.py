"""The planted world: written, and read back."""
