"""The networks of the world model of SimPLe."""
