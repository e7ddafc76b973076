"""The methods, as LightningModules."""
