"""Tabular benchmarks: how good every architecture of a space is once trained, as others have measured it."""
