"""ONNX files for ONNX Runtime: standard operators, exact integers."""
