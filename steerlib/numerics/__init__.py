"""Arrays to arrays."""
