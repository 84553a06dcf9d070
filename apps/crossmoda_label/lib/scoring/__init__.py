"""How good the pseudo-labels were."""
