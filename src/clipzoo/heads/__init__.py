"""Light modules from the student's feature maps to a task's prediction; one file a head."""
