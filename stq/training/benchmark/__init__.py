"""Time and memory of a training step, quantized beside float."""
