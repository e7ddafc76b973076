"""SimPLe: a world model learned from real play, and a policy that learns in it."""
