"""Penalties on the critic's input gradient."""
