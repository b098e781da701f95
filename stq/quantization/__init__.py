"""Puts quantizers into a model and decides their bits: policy, surgery, calibration, evaluation on codes, summary."""
