"""The distributed part: triggering calls exactly once and watching each to its end."""
