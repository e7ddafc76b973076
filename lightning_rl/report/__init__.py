"""`lightning-rl report`: run folders to one page and one JSON file of statistics over runs."""
