"""The processes of a training: their group, what they share, and the student on them."""
