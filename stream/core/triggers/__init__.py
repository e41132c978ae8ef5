"""Engagement triggers: small state machines in event time."""
