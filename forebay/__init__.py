"""Forebay: a real-time warehouse in one Python process."""
