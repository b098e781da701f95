"""QONNX files for FPGA flows: thresholds as MultiThreshold, weights annotated with their integer type."""
