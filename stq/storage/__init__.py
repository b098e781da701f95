"""Files that last: written whole or not at all, known by what they hold, a run folder locked by who works in it."""
