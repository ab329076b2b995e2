"""From what the user asked for to a run that can be carried out."""
