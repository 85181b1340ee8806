"""f-divergences."""
