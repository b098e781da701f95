"""Standard QDQ files (QuantizeLinear, DequantizeLinear around float operators), which most runtimes read."""
