"""Searches: one file for each method, and the registry of all methods."""
