"""Personal lists: components give candidates with evidence, a learned mixture scores them. Pure."""
