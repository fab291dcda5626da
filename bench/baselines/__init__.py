"""What fastbg is measured against: the ways that people write it in plain PyTorch."""
