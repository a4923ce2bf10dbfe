"""Names, places and validity of results."""
