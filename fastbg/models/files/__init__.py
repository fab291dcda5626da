"""Weights files on disk: recognise their format and read their tensors without trusting them."""
