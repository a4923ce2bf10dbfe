"""Files that are whole or absent, whatever they hold."""
