"""Exported policies: folders that hold a trained agent, loaded without Lightning and without games."""
