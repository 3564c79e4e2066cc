"""Families of the models of built-in zoos, which are listed without importing the zoos and PyTorch."""
