"""Concepts from files."""
