"""Packed files: safetensors with weights at their bit width, and a description of the network."""
