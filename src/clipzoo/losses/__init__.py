"""Pure functions (prediction, target, valid) -> scalar; one file a loss."""
