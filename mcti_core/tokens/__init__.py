"""Token sets, their files, and the formats of other programs."""
