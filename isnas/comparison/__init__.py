"""Comparison of methods: budget, referee, trials and tables."""
