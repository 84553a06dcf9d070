"""Models that the app serves."""
