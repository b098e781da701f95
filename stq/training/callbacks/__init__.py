"""Lightning callbacks of a run: annealing, falling bits, batch norm's statistics, quantizers by layer, progress."""
