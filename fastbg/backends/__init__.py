"""One package per backend; each has one file per operator family, and none imports another."""
