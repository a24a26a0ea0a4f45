"""Connectors and formats: everything that speaks to the outside."""
