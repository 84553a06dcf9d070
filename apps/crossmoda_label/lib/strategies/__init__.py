"""Which case comes next."""
