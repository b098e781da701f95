"""Everything for wandb that knows no training: where runs go, reports kept there, the workspace as code."""
