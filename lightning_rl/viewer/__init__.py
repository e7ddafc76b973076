"""A page in the browser on which a person watches an agent, takes over and plays."""
