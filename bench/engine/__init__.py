"""What the engine costs and gains, and how `gpux serve` grows."""
