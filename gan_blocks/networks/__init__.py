"""Whole generators and discriminators."""
