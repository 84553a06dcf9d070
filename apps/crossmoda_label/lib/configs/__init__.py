"""What the app offers, put together."""
