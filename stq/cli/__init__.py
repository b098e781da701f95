"""Command lines: thin Hydra applications that import what they need when they need it."""
