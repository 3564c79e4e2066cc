"""Dense probes in closed form: ridge regression from the tokens of frozen features to labels."""
