"""What the Train button starts."""
