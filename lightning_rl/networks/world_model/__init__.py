"""The networks of SimPLe's world model."""
