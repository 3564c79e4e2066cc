"""The parts of a sample, for all formats: captions, image files, orientation."""
