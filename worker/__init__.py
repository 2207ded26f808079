"""The distributed part: place each call exactly once, and watch it until it ends."""
