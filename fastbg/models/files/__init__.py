"""Weights files on disk: what they are, and how their tensors are read without trusting them."""
