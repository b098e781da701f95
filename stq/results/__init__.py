"""Results: reading and writing result.json. Knows files only, no training code."""
