"""One update of the student: its parameters, the optimizer, and what happens to a step."""
