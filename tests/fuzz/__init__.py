"""Fuzz of the pure path: what is sent is accepted or dead-lettered, once, and nothing raises."""
