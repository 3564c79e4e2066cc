"""Labels computed from other columns of a store; one file per kind, named by the scheme of its URIs."""
