"""Modules to put into one's own network."""
