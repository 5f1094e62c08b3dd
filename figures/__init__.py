"""Figures drawn from recorded runs; each module is a command, too: ``python -m figures.NAME``."""
