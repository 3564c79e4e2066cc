"""Existing labels as experts; one file a format, named by the scheme of its URIs."""
