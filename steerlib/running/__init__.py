"""Getting it done."""
