"""What is computed from runs: groups that may stand in one table, means over seeds, tests, costs, published numbers."""
