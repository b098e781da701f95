"""From a trained model to integers elsewhere: frozen records, exports, cost. Knows no quantization method by name."""
