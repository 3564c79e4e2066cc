"""Labels made of other columns of a store; one file a kind, named by the scheme of its URIs."""
