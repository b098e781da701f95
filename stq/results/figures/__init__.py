"""Figures from runs: one look, accuracy against bits and size, training curves, quantizers by layer."""
