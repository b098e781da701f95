"""What run folders hold: the record of a run, its configuration, its metrics, and where runs are found."""
