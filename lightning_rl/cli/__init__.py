"""What a person types: the command, where its run lives, and what it answers to wrong input."""
