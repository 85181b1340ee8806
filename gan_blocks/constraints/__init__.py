"""Constraints that act on a module after a step."""
