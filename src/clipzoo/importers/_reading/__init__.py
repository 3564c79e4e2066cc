"""Reading of label files: published depth encodings, HDF5, and patterns of file names."""
