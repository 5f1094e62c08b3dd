"""Codes: what a search optimises, and how it becomes coefficients or an architecture."""
