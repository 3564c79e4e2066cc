"""A recipe and its folder: preflight checks, dry run, and the verbs that label, train, measure and report."""
