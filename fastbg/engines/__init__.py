"""Where the work of an experiment runs."""
