"""From the model: reads the order of operations out of a module; what is unknown is refused by name."""
