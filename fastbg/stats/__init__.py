"""Confidence intervals over photographs, and rank correlations."""
