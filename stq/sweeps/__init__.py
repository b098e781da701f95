"""Many runs: jobs report how they ended, the parent tells of them; Submitit's launcher, hyperparameter search."""
