"""Token sets: what is learned, its files, and the formats of other programs."""
