"""The frozen network: from the model's static records to integers, and the arithmetic that every format must equal."""
