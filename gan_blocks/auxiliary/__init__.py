"""Auxiliary loss terms and weights."""
