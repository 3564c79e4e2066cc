"""Home again: a trained student in the formats of others; one file a format, each measuring that nothing changed."""
