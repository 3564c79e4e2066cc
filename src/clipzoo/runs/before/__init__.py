"""Before a run does any work: checks of its recipe and files, and the dry run."""
